"""The command line of `legion-agent`: its flags are the settings of `legion_iot.configuration.programs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from legion_iot import __version__
from legion_iot.configuration.programs import AGENT
from legion_iot.configuration.settings import Setting

INSTALLING = ("join", "install", "uninstall", "status")  # what `commands` carries out
_EXAMPLE = "example: legion-agent --broker mqtt://192.168.1.10 --name kitchen-pi"
# What the flags' values are called in the help.
_METAVARS = {
    "broker": "URL", "credentials": "FILE", "base_topic": "TOPIC", "state_dir": "DIR", "threads": "N",
    "cpu_share": "CORES", "cpu_quota": "CORES", "memory_mb": "MB", "model_disk_mb": "MB",
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
    _add_json(config)
    add_settings(config)
    _add_installing(commands)
    return made


def _add_installing(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    join = commands.add_parser("join", help="take part from now on, as a service, with a bundle")
    join.add_argument("bundle", type=Path, help="the file of `legion broker add-device`")
    install = commands.add_parser("install", help="the same with the settings in /etc/legion-iot/agent.toml")
    for each in (join, install):
        each.add_argument("--broker", metavar="URL", help="write this into agent.toml; auto finds it")
        each.add_argument("--no-start", action="store_true", help="only at the next start of the system")
    uninstall = commands.add_parser("uninstall", help="stop the service, and remove all of it")
    uninstall.add_argument("--keep", action="store_true", help="but leave settings, bundle, models and measurements")
    _add_json(commands.add_parser("status", help="whether the service runs, and what it says"))
    for each in (join, install, uninstall):
        each.add_argument(
            "--root", type=Path, default=Path("/"), metavar="DIR", help="another system's root, such as a mounted card"
        )


def _add_json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")


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
