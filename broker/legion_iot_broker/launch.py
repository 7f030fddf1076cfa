"""A broker for this machine, whichever can be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from legion_iot import __version__
from legion_iot.errors import BrokerError
from legion_iot.transport.connection import BrokerAddress
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.limits import DEFAULT_LIMITS, BrokerLimits
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto, mosquitto_version

Kind: TypeAlias = Literal["mosquitto", "embedded"]


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that accepts connections now; `address` names no user."""

    address: BrokerAddress
    kind: Kind
    version: str


@contextmanager
def local_broker(
    prefer: Literal["auto", "mosquitto", "embedded"] = "auto",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    limits: BrokerLimits = DEFAULT_LIMITS,
    anonymous: bool | None = None,
) -> Iterator[RunningBroker]:
    """Run a broker inside `with`: Mosquitto where its binary exists, else the embedded one.

    Port 0 takes a free one. Raises `BrokerError` when the preferred kind is missing or does not start.
    """
    binary = find_mosquitto() if prefer != "embedded" else None
    if prefer == "mosquitto" and binary is None:
        raise BrokerError("mosquitto is not installed: apt install mosquitto, or use the embedded broker")
    if binary is not None:
        with MosquittoProcess(
            binary, host=host, port=port, users=users, acl=acl, limits=limits, anonymous=anonymous
        ) as mosquitto:
            yield RunningBroker(mosquitto.address, "mosquitto", mosquitto_version(binary))
        return
    with EmbeddedBroker(host, port, users=users, acl=acl, limits=limits, anonymous=anonymous) as embedded:
        yield RunningBroker(embedded.address, "embedded", __version__)
