"""The command line of `legion-agent`: its flags are the settings of `legion_iot.configuration.programs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from legion_iot import __version__
from legion_iot.configuration.programs import AGENT
from legion_iot.configuration.settings import Setting

_EXAMPLE = "example: legion-agent --broker mqtt://192.168.1.10 --name kitchen-pi"
# What the flags' values are called in the help.
_METAVARS = {
    "broker": "URL", "credentials": "FILE", "base_topic": "TOPIC", "state_dir": "DIR", "threads": "N",
    "cpu_share": "CORES", "cpu_quota": "CORES", "memory_mb": "MB",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The parser; what flags say of settings is text, under the settings' keys."""
    made = argparse.ArgumentParser(
        prog="legion-agent",
        description="Join a group of devices that run neural networks together.",
        epilog=f"{_EXAMPLE}. Each setting can also be a variable, such as LEGION_BROKER, or stand in "
        "/etc/legion-iot/agent.toml or ~/.config/legion-iot/agent.toml.",
    )
    add_settings(made)
    made.add_argument("--until-stdin-closes", action="store_true", help="end when standard input ends")
    made.add_argument("--version", action="version", version=f"legion-agent {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", title="other than taking part")
    config = commands.add_parser("config", help="what it is told, and who said so")
    config.add_argument("action", choices=("show", "check"), help="show all settings, or say whether they are right")
    add_settings(config)
    return made


def add_settings(made: argparse.ArgumentParser) -> None:
    """A flag for each setting of the agent, and the choice of a file."""
    made.add_argument("--config", type=Path, metavar="FILE", help="read this instead of agent.toml in its usual places")
    for setting in AGENT:
        _add(made, setting)


def _add(made: argparse.ArgumentParser, setting: Setting[object]) -> None:
    # Where a command repeats a flag, its silence must not undo what was said before it.
    if setting.kind.noun == "true or false":
        default = setting.default()
        name = f"--no-{setting.key.replace('_', '-')}" if default else setting.flag
        what = {"xnnpack": "use the runtime's builtin kernels"}.get(setting.key, setting.what)
        made.add_argument(
            name, action="store_const", const=not default, default=argparse.SUPPRESS, dest=setting.key, help=what
        )
        return
    otherwise = setting.otherwise or str(setting.default())
    made.add_argument(
        setting.flag,
        default=argparse.SUPPRESS,
        dest=setting.key,
        metavar=_METAVARS.get(setting.key, "NAME"),
        help=f"{setting.what} (default: {otherwise})",
    )
