"""Where the `legion` script begins, and `python -m legion_iot.cli`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it; an interrupt meanwhile ends the process without a word."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 — for as long as we run
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what is loaded stays; looking for garbage in it is a tenth of the time
    # Imported here: typer and rich take a while, and nothing has been started that would have to be stopped.
    try:
        from legion_iot.cli.main import main as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        # A device is installed without what the command line needs.
        print(f"legion: {error.name} is not installed; install it with: pip install 'legion-iot[all]'", file=sys.stderr)
        sys.exit(2)
    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
