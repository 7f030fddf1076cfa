"""`legion`: the entry point, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer

from legion_iot import __version__
from legion_iot.cli import bench, broker, config, cost, demo, lab, model, orchestrator, plan, simulate, verify, zoo
from legion_iot.errors import LegionError
from legion_iot.interruption import Interrupted, end_on_signals

EXIT_CODES = """
Exit codes: 0 done · 1 a result is not as it should be · 2 wrong flag or argument · 3 unreadable file or picture ·
4 no usable model · 5 broker · 6 download · 7 agent · 8 request failed · 9 no TFLite runtime ·
11 certificate revoked · 12 certificate expired · 13 foreign certificate · 14 password refused ·
15 name taken · 130 interrupted
"""

app = typer.Typer(
    name="legion",
    help="Run one neural network together on a group of small, unequal devices, over MQTT.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("verify")(verify.verify)
app.command("cost")(cost.cost)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.add_typer(model.app, name="model")
app.add_typer(zoo.app, name="zoo")
app.add_typer(orchestrator.app, name="orchestrator")
app.add_typer(broker.app, name="broker")
app.add_typer(config.app, name="config")
app.add_typer(lab.app, name="lab")
app.add_typer(bench.app, name="bench")


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
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except LegionError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except _WrongUsage as error:
        # Called without a command, typer has shown its help, or hands it over as the message.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message() or "", err=True, nl=False)
        else:
            _say(f"{error.format_message().rstrip('.')}; see: legion --help")
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _say(text: str) -> None:
    print(f"legion: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
