"""`legion` with a signal at the worst moment: right after a directory has been made, or a process started.

    python interrupted_while_making.py directory|process MARK ARGUMENTS…

MARK is in the directory's name, or among the process's arguments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from legion_iot.cli.main import main

KIND, MARK, *ARGUMENTS = sys.argv[1:]

_make_directory = tempfile.mkdtemp


def _mkdtemp(*arguments: Any, **options: Any) -> str:
    made: str = _make_directory(*arguments, **options)
    if KIND == "directory" and MARK in made:
        os.kill(os.getpid(), signal.SIGINT)
    return made


class _Popen(subprocess.Popen[Any]):
    def __init__(self, command: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(command, *arguments, **options)
        if KIND == "process" and any(MARK in str(each) for each in command):
            os.kill(os.getpid(), signal.SIGINT)


tempfile.mkdtemp = _mkdtemp
subprocess.Popen = _Popen  # type: ignore[misc]
sys.argv = ["legion", *ARGUMENTS]
main()
