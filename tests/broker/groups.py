"""Broker directories for tests: in a place that Mosquitto can reach, on ports that were free a moment ago."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from legion_iot.errors import BrokerError
from legion_iot.transport.credentials import Bundle, read_bundle
from legion_iot_broker.directory import BrokerDirectory, Wanted, create
from legion_iot_broker.records import now_utc
from legion_iot_broker.serving import serve


@contextmanager
def open_place() -> Iterator[Path]:
    """A directory that the account can enter which Mosquitto changes to; pytest's own are closed to it."""
    place = Path(tempfile.mkdtemp(prefix="legion-test-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def make_group(place: Path, name: str = "group", *, websockets: bool = False) -> BrokerDirectory:
    port, local, third = free_ports(3)
    wanted = Wanted(("localhost",), port=port, local_port=local, websockets_port=third if websockets else None)
    return create(place / name, wanted.settings(), now_utc())


def let_in(group: BrokerDirectory, name: str, role: str = "agent") -> Bundle:
    bundle = group.path.parent / f"{group.path.name}-{name}.pem"
    group.add(name, role, bundle, 30, now_utc())
    group.reload()
    return read_bundle(bundle)


@contextmanager
def mosquitto_with_group(place: Path) -> Iterator[BrokerDirectory]:
    """A group whose Mosquitto runs; where somebody took one of its ports meanwhile, another group is tried."""
    for attempt in range(5):
        group = make_group(place, f"group-{attempt}")
        with ExitStack() as stack:
            try:
                stack.enter_context(serve(group, "mosquitto"))
            except BrokerError as error:
                if attempt == 4 or "in use" not in str(error):
                    raise
                continue
            yield group
            return
