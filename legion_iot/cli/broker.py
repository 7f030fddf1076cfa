"""`legion broker`: an MQTT broker, for this machine or for a group with an identity for each device."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import typer

from legion_iot.cli.console import err, out
from legion_iot.errors import BrokerError, UsageError

if TYPE_CHECKING:
    from legion_iot_broker.directory import BrokerDirectory
    from legion_iot_broker.serving import Served

app = typer.Typer(help="An MQTT broker, for this machine or for a group of devices.", no_args_is_help=True)

_KINDS = ("auto", "mosquitto", "embedded")
_CHECK_SECONDS = 0.5
DEFAULT_PORT = 1883

_directory = typer.Option(
    Path("/var/lib/legion-broker"), "--dir", envvar="LEGION_BROKER_DIR", help="The directory of `legion broker init`."
)


@app.command("init")
def init(
    directory: Path = typer.Argument(help="A directory that does not exist yet, or is empty."),
    host: list[str] = typer.Option(
        [], help="A name or address of this machine, as devices see it; several may be given.  [default: those found]"
    ),
    port: int | None = typer.Option(None, help="For devices: TLS.  [default: 8883]"),
    local_port: int | None = typer.Option(None, help="For programs on this machine: no TLS.  [default: 1883]"),
    websockets_port: int | None = typer.Option(None, help="For browsers: TLS, where Mosquitto was built with it."),
    base_topic: str | None = typer.Option(None, help="The group's topic.  [default: legion]"),
) -> None:
    """Make a broker for a group: configuration, certificate authority, access rules. Nothing is ever overwritten.

    Example: legion broker init /var/lib/legion-broker --host 192.168.1.10
    """
    from legion_iot_broker.directory import Wanted, initialise  # noqa: PLC0415 — takes time
    from legion_iot_broker.records import now_utc  # noqa: PLC0415

    wanted = Wanted(tuple(host), base_topic, port, local_port, websockets_port)
    made, new = initialise(directory, wanted, now_utc())
    if not new:
        text = f"{made.path} is a broker already; its keys and members stay as they are"
        err.print(text, markup=False, soft_wrap=True)
        return
    err.print(f"made {made.path}: {made.url}, for {', '.join(made.settings.hosts)}", markup=False, soft_wrap=True)
    err.print(f"next: legion broker add-device NAME --dir {made.path}", markup=False, soft_wrap=True)


@app.command("add-device")
def add_device(
    name: str = typer.Argument(help="The device's name in the group: up to 32 of a–z, 0–9 and '-'."),
    directory: Path = _directory,
    role: str = typer.Option(
        "agent",
        help="agent, orchestrator, client (may infer), operator (and add models), observer (may look) or "
        "home-assistant.",
    ),
    out_file: Path | None = typer.Option(None, "--out", help="Where its bundle goes.  [default: NAME.pem]"),
    days: int = typer.Option(3650, help="How long its certificate is good."),
) -> None:
    """Let a device in: writes one file with its certificate, key and password, and tells the running broker.

    Example: legion broker add-device kitchen-pi --out kitchen-pi.pem
    """
    from legion_iot_broker.directory import BrokerDirectory  # noqa: PLC0415
    from legion_iot_broker.records import now_utc  # noqa: PLC0415

    found = BrokerDirectory.open(directory)
    bundle = out_file or Path(f"{name}.pem")
    member = found.add(name, role, bundle, days, now_utc())
    told = found.reload()
    until = member.expires.partition("T")[0]
    err.print(
        f"{bundle}: {role} {name}, until {until}. Whoever has it can pass for {name}", markup=False, soft_wrap=True
    )
    _say_told(told)


@app.command("remove-device")
def remove_device(name: str = typer.Argument(help="Whom to remove."), directory: Path = _directory) -> None:
    """Take a device's certificate, password and rights back, and cut it off from the running broker.

    Example: legion broker remove-device kitchen-pi
    """
    from legion_iot_broker.directory import BrokerDirectory  # noqa: PLC0415
    from legion_iot_broker.records import now_utc  # noqa: PLC0415

    told = BrokerDirectory.open(directory).remove(name, now_utc())
    err.print(f"{name} is let in no more", markup=False)
    _say_told(told)


@app.command("devices")
def devices(
    directory: Path = _directory, as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")
) -> None:
    """Show who is let in, and until when.

    Example: legion broker devices --dir /var/lib/legion-broker
    """
    from rich.table import Table  # noqa: PLC0415 — takes time

    from legion_iot_broker.directory import BrokerDirectory  # noqa: PLC0415

    members = BrokerDirectory.open(directory).roll.present
    if as_json:
        shown = ("name", "role", "issued", "expires")
        listed = [{key: getattr(member, key) for key in shown} for member in members]
        typer.echo(json.dumps({"schema": 1, "devices": listed}))
        return
    table = Table("name", "role", "since", "until")
    for member in members:
        table.add_row(member.name, member.role, member.issued.partition("T")[0], member.expires.partition("T")[0])
    out.print(table)


@app.command("run")
def run(
    directory: Path | None = typer.Argument(None, help="A directory of `legion broker init`."),
    port: int | None = typer.Option(
        None,
        min=0,
        max=65535,
        help="Without a directory: port on the loopback interface; 0 takes a free one.  [default: 1883]",
    ),
    kind: str = typer.Option("auto", help="mosquitto or embedded; auto: mosquitto where it is installed."),
) -> None:
    """Run a broker until Ctrl-C: that of a directory, or, without one, an open one that only this machine can reach.

    Example: legion broker run /var/lib/legion-broker
    """
    if kind not in _KINDS:
        raise UsageError(f"--kind is {kind!r}; give auto, mosquitto or embedded")
    prefer = cast(Literal["auto", "mosquitto", "embedded"], kind)
    if directory is None:
        _run_open(DEFAULT_PORT if port is None else port, prefer)
    elif port is not None:
        raise UsageError("--port and a directory do not go together: the directory says the ports")
    else:
        _run_directory(directory, prefer)


def _run_open(port: int, prefer: Literal["auto", "mosquitto", "embedded"]) -> None:
    from legion_iot_broker.launch import local_broker  # noqa: PLC0415 — starts nothing at import, but takes time

    with local_broker(prefer, port=port) as running:
        typer.echo(str(running.address))
        err.print(f"{running.kind} {running.version} is running; Ctrl-C stops it", markup=False)
        threading.Event().wait()


def _run_directory(directory: Path, prefer: Literal["auto", "mosquitto", "embedded"]) -> None:
    from legion_iot_broker.directory import BrokerDirectory  # noqa: PLC0415
    from legion_iot_broker.serving import serve  # noqa: PLC0415

    opened = BrokerDirectory.open(directory)
    with serve(opened, prefer) as served, _announcing(opened, served) as notes:
        for endpoint in served.endpoints:
            typer.echo(endpoint)
        for note in notes:
            err.print(f"note: {note}", markup=False, soft_wrap=True)
        for sentence in served.lacking:
            err.print(f"note: {sentence}", markup=False, soft_wrap=True)
        err.print(f"{served.title} is running; Ctrl-C stops it", markup=False)
        while True:
            served.check()
            time.sleep(_CHECK_SECONDS)


@contextlib.contextmanager
def _announcing(directory: BrokerDirectory, served: Served) -> Iterator[list[str]]:
    """Announced in the local network as far as devices can connect; else with a note that says why not."""
    from legion_iot.transport import discovery  # noqa: PLC0415
    from legion_iot.transport.connection import is_loopback  # noqa: PLC0415

    settings = directory.settings
    hosts = tuple(host for host in settings.hosts if not is_loopback(host))
    if not hosts or not any(endpoint.startswith("mqtts:") for endpoint in served.endpoints):
        yield []
    elif not discovery.is_available():
        yield ["devices cannot find the broker by themselves: pip install 'legion-iot[discovery]'"]
    else:
        with contextlib.ExitStack() as stack:
            notes = []
            announcement = discovery.Announcement(settings.port, hosts, settings.base_topic)
            try:
                stack.enter_context(discovery.announced(announcement))
            except BrokerError as error:
                notes.append(str(error))
            yield notes


def _say_told(told: bool) -> None:
    err.print(
        "the running broker knows"
        if told
        else "no broker was found running on the directory: it holds from its next start",
        markup=False,
        soft_wrap=True,
    )
