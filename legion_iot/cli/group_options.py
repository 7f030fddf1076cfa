"""The devices that commands plan for: from a file that describes them, or those of a live group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import err
from legion_iot.errors import InputError
from legion_iot.files import state_directory

if TYPE_CHECKING:
    from legion_iot.orchestrator.operator import Operator
    from legion_iot.planning.device_file import KnownGroup
    from legion_iot.transport.connection import BrokerAddress
    from legion_iot.transport.credentials import Bundle


# The options of commands that plan.
DEVICES: Any = typer.Option(None, help="A TOML file that says what the devices are (docs/planning.md).")
BROKER: Any = typer.Option(
    "", envvar="LEGION_BROKER", help="Where the agents are online.  [default: the bundle's, or this machine's]"
)
BASE_TOPIC: Any = typer.Option("", help="The group's topic.  [default: the bundle's, or legion]")
CREDENTIALS: Any = typer.Option(
    None, envvar="LEGION_CREDENTIALS", help="The bundle of `legion broker add-device --role observer`."
)
OPERATOR_CREDENTIALS: Any = typer.Option(
    None, envvar="LEGION_CREDENTIALS", help="The bundle of `legion broker add-device --role operator`."
)


@contextlib.contextmanager
def operator_of(broker: str, base_topic: str, credentials: Path | None) -> Iterator[Operator]:
    """Who asks the orchestrator, connected; raises UsageError, InputError or BrokerError."""
    from legion_iot.orchestrator.operator import Operator  # noqa: PLC0415 — loads paho

    address, topic, _ = member_of(broker, base_topic, credentials, "operator")
    with Operator(address, topic) as operator:
        yield operator


def known_group(devices: Path | None, broker: str, base_topic: str, credentials: Path | None) -> KnownGroup:
    """What a device file says, or where there is none, what is known of the agents that are online.

    Raises InputError, UsageError, BrokerError or AgentError.
    """
    return _live_group(broker, base_topic, credentials) if devices is None else read_device_file(devices)


def read_device_file(path: Path) -> KnownGroup:
    """The devices a TOML file describes; raises InputError with the file's name, the key, and what is allowed."""
    from legion_iot.planning.device_file import parse_device_file  # noqa: PLC0415 — loads numpy
    from legion_iot.toml_tables import read_text  # noqa: PLC0415

    text = read_text(path, "a description of devices")
    try:
        return parse_device_file(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def where(broker: str, base_topic: str, credentials: Path | None) -> tuple[BrokerAddress, str]:
    """The broker and the base topic that are meant; raises InputError or UsageError."""
    address, topic, _ = member_of(broker, base_topic, credentials)
    return address, topic


def member_of(
    broker: str, base_topic: str, credentials: Path | None, *roles: str
) -> tuple[BrokerAddress, str, Bundle | None]:
    """The broker and the base topic that are meant, and the bundle, if any, of a member with one of `roles`, if any.

    Raises InputError or UsageError.
    """
    from legion_iot.transport.credentials import (  # noqa: PLC0415 — loads paho
        DEFAULT_BASE_TOPIC,
        broker_address,
        check_role,
        read_bundle,
    )

    bundle = None if credentials is None else read_bundle(credentials)
    if bundle is not None and roles:
        check_role(bundle, *roles)
    topic = base_topic or (bundle.base_topic if bundle else DEFAULT_BASE_TOPIC)
    return broker_address(bundle, broker), topic, bundle


def _live_group(broker: str, base_topic: str, credentials: Path | None) -> KnownGroup:
    from legion_iot.orchestrator.group import read_group  # noqa: PLC0415 — loads numpy
    from legion_iot.planning.device_file import KnownGroup  # noqa: PLC0415

    address, topic = where(broker, base_topic, credentials)
    live = read_group(address, topic, state_directory())
    unknown = sorted({device.board for device in live.group.devices} - set(live.samples.boards))
    if unknown:
        _warn(f"nothing was measured on {', '.join(unknown)}: its times are guesses until the orchestrator has served")
    if live.assumed:
        _warn(f"the link of {', '.join(live.assumed)} was not measured; 100 Mbit/s is assumed")
    return KnownGroup(live.group, {}, {}, live.samples)


def _warn(text: str) -> None:
    err.print(text, style="yellow", markup=False, soft_wrap=True)
