"""`legion`: the entry point, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any, NoReturn

import typer

from legion_iot import __version__
from legion_iot.cli.commands import COMMANDS
from legion_iot.cli.group import EXIT_CODES, PLAIN, AllCommands
from legion_iot.errors import LegionError
from legion_iot.interruption import Interrupted, end_on_signals

app = typer.Typer(
    name="legion",
    cls=AllCommands,
    help="Run one neural network together on a group of small, unequal devices, over MQTT.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    **PLAIN,
)


def _in_its_module() -> None:
    """What stands for a command until it is called."""


for _name, _described in COMMANDS.items():
    app.command(_name, help=_described.line)(_in_its_module)


# What typer raises for wrong flags. It comes from click, or from the copy of click inside newer versions of typer,
# which export the subclass only.
_WrongUsage: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"legion {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Options that stand before the command."""


def main() -> NoReturn:
    """Run the command line; exits with the code of what happened, never with a traceback."""
    end_on_signals()
    try:
        code = app(prog_name="legion", standalone_mode=False)
        sys.stdout.flush()
        gc.freeze()  # what is left goes with the process: nobody need look for garbage in it
    except LegionError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except _WrongUsage as error:
        # Called without a command, typer has shown its help, or hands it over as the message.
        if type(error).__name__ == "NoArgsIsHelpError":
            print((error.format_message() or "").rstrip(), file=sys.stderr)
        else:
            said = error.format_message().rstrip(".")
            _say(f"{said}{' See' if said.endswith('?') else '; see'}: {_path(error)} --help")
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        _nobody_reads()
    except SystemExit as end:
        # What typer and rich make of it.
        if isinstance(end.__context__, BrokenPipeError):
            _nobody_reads()
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _nobody_reads() -> NoReturn:
    """Whoever read our output has enough; Python must not complain again when it closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)


def _path(error: Any) -> str:
    """The command that was called wrongly, as it is called."""
    context = getattr(error, "ctx", None)
    return "legion" if context is None else str(context.command_path)


def _say(text: str) -> None:
    print(f"legion: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
