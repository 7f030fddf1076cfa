"""The documents: all commands in them exist, and blocks that begin with ```sh run are run as they stand.

A line that ends with `&      # …; wait until it says: WORDS` goes on in the background until its document ends.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from legion_iot_agent.arguments import parser
from tests.cli.command_tree import parse

from .conftest import SCRIPTS, Stage
from .networks import residual_classifier

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```sh *([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(legion(?:-agent)? [^`]+)`")
NAMED_ONLY = ("MissingParameter", "NoArgsIsHelpError", "NoArgsIsHelp", "BadOptionUsage", "Exit")
# What stands for something else, or for several things.
SCHEMATIC = re.compile(r"[…|\[<]|\.\.\.|COMMAND")
# Small ones in the place of what takes long to make or to compute.
SMALLER = {"vgg16": "./cat.tflite", "run efficientnet-lite0": "run ./efficientnet-lite0.tflite"}
GOES_ON = re.compile(r"^(.*?)&\s*#.*wait until it says: (.*)$", re.MULTILINE)
SECONDS = 100


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(script: str) -> Iterator[list[str]]:
    """The words of every call of ours in a piece of shell."""
    text = ""
    for line in script.replace("\\\n", " ").splitlines():
        text += line
        words = shlex.shlex(text, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        try:
            told = list(words)
        except ValueError:  # a quotation that goes on
            text += "\n"
            continue
        text = ""
        for operator, group in groupby(told, lambda word: set(word) <= set("();<>|&")):
            command = [word for word in group if word != "sudo" and not re.match(r"[A-Z_]+=", word)]
            if not operator and command and Path(command[0]).name in ("legion", "legion-agent"):
                yield [Path(command[0]).name, *command[1:]]
    assert not text, "a quotation has no end"


def understand(words: list[str]) -> None:
    """Raises, or exits, where the command or one of its flags is not known, or a value cannot be."""
    if words[0] == "legion":
        parse(shlex.join(words))
    else:
        parser().parse_args(words[1:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_in_a_block_is_one_that_there_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = [match[3] for match in BLOCK.finditer(text)]
    indented = [line for line in text.splitlines() if line.startswith("    legion") and not SCHEMATIC.search(line)]
    for words in commands("\n".join([*blocks, *indented])):
        try:
            understand(words)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{shlex.join(words)}: {error}")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_in_a_sentence_is_one_that_there_is(path: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in (" ".join(each.split()) for each in INLINE.findall(text)):
        if SCHEMATIC.search(line) or line.startswith("legion-agent "):
            continue
        try:
            parse(line)
        except Exception as error:
            # A sentence may name a command without what it takes, and a flag without its value.
            assert type(error).__name__ in NAMED_ONLY, f"`{line}`: {error}"


def runnable() -> dict[str, str]:
    """Documents with blocks that are run, and those blocks as one script."""
    found = {}
    for path in DOCUMENTS:
        blocks = [match[3] for match in BLOCK.finditer(path.read_text(encoding="utf-8")) if match[2] == "run"]
        if blocks:
            found[name(path)] = "\n".join(blocks)
    return found


@pytest.mark.parametrize("document", runnable())
def test_the_blocks_run(stage: Stage, photograph: Path, tmp_path: Path, document: str) -> None:
    shutil.copy(photograph, tmp_path / "cat.jpg")
    residual_classifier(tmp_path / "cat.tflite")
    residual_classifier(tmp_path / "efficientnet-lite0.tflite", seed=2)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    script = runnable()[document].replace(".venv/bin/", "")
    for large, small in SMALLER.items():
        script = script.replace(large, small)
    script = GOES_ON.sub(r"\1 2> said & until grep -q '\2' said; do kill -0 $!; sleep 0.2; done", script)
    environment = {**stage.environment, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, said
