"""Announcing a group's broker in the local network, and finding it: DNS-SD over mDNS (RFC 6763, RFC 6762).

What is found says only where to knock, and anybody may announce anything: whether it is the group's broker, its
certificate tells.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from legion_iot.errors import BrokerError, UsageError

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

SERVICE = "_secure-mqtt._tcp.local."
PROGRAM = "legion-iot"
FIND_SECONDS = 3.0  # without an answer; mDNS answers take up to 0.5 s (RFC 6762, section 6)
_MORE_SECONDS = 0.5  # for a second answer, after the first
_RESOLVE_MS = 2000
_MISSING = "zeroconf is not installed: pip install 'legion-iot[discovery]'"


@dataclass(frozen=True, slots=True)
class Announcement:
    """A broker's TLS listener: the names and addresses of its certificate, and the group it is for."""

    port: int
    hosts: tuple[str, ...]
    base_topic: str

    def url(self, addresses: Sequence[str]) -> str:
        """Where to connect: an address that the machine has and its certificate names, else what that names first."""
        host = next((each for each in addresses if each in self.hosts), self.hosts[0])
        return f"mqtts://[{host}]:{self.port}" if ":" in host else f"mqtts://{host}:{self.port}"


def is_available() -> bool:
    """Whether what this takes is installed."""
    try:
        import zeroconf  # noqa: F401, PLC0415 — an optional extra
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def announced(announcement: Announcement, interfaces: Sequence[str] | None = None) -> Iterator[None]:
    """Announce a broker inside `with`, on these addresses of this machine or on all.

    Raises UsageError without zeroconf, BrokerError where the network does not carry it.
    """
    with _zeroconf(interfaces) as conversation:
        info = _info(announcement)
        try:
            conversation.register_service(info, allow_name_change=True)
        except Exception as error:  # zeroconf has no common class for what can go wrong on a network
            raise BrokerError(f"the broker cannot be announced ({error or type(error).__name__})") from None
        yield


def find(base_topic: str, seconds: float = FIND_SECONDS, interfaces: Sequence[str] | None = None) -> str:
    """The URL of the one broker that is announced for a group.

    Raises UsageError without zeroconf, BrokerError where none is announced, or several.
    """
    with _zeroconf(interfaces) as conversation:
        found = sorted({url for url, topic in _answers(conversation, seconds) if topic == base_topic})
    cure = "give its address: --broker mqtts://HOST"
    if not found:
        raise BrokerError(f"no broker for {base_topic!r} has announced itself within {seconds:g} s; {cure}")
    if len(found) > 1:
        raise BrokerError(f"several brokers for {base_topic!r} have announced themselves: {', '.join(found)}; {cure}")
    return found[0]


@contextlib.contextmanager
def _zeroconf(interfaces: Sequence[str] | None) -> Iterator[Zeroconf]:
    try:
        from zeroconf import InterfaceChoice, Zeroconf  # noqa: PLC0415 — an optional extra
    except ImportError:
        raise UsageError(f"{_MISSING}; or give the broker's address: --broker mqtts://HOST") from None
    try:
        try:
            conversation = Zeroconf(interfaces=list(interfaces) if interfaces else InterfaceChoice.All)
        except OSError:  # a sandbox need not show which interfaces there are
            conversation = Zeroconf(interfaces=InterfaceChoice.Default)
    except OSError as error:
        raise BrokerError(f"the local network cannot be asked for a broker ({error.strerror})") from None
    try:
        yield conversation
    finally:
        conversation.close()


def _info(announcement: Announcement) -> ServiceInfo:
    from zeroconf import ServiceInfo  # noqa: PLC0415 — an optional extra

    machine = socket.gethostname().split(".")[0]
    properties = {"program": PROGRAM, "base": announcement.base_topic, "hosts": ",".join(announcement.hosts)}
    return ServiceInfo(
        SERVICE,
        f"{PROGRAM} {announcement.base_topic.replace('/', ' ')} on {machine}"[:63].rstrip() + f".{SERVICE}",
        port=announcement.port,
        properties=properties,
        server=f"{machine}.local.",
        parsed_addresses=[host for host in announcement.hosts if _is_address(host)],
    )


def _answers(conversation: Zeroconf, seconds: float) -> Iterator[tuple[str, str]]:
    """URL and base topic of each broker of ours that is announced, until no more come."""
    from zeroconf import ServiceBrowser, ServiceListener  # noqa: PLC0415 — an optional extra

    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            names.put(name)

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            names.put(name)

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            pass

    browser = ServiceBrowser(conversation, SERVICE, Listener())
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                name = names.get(timeout=left)
            except queue.Empty:
                return
            info = conversation.get_service_info(SERVICE, name, _RESOLVE_MS)
            if info is not None and (answer := _read(info)) is not None:
                deadline = min(deadline, time.monotonic() + _MORE_SECONDS)
                yield answer
    finally:
        browser.cancel()


def _read(info: ServiceInfo) -> tuple[str, str] | None:
    """What a service says of itself; None where it is none of ours."""
    said = info.decoded_properties
    hosts = tuple(host for host in (said.get("hosts") or "").split(",") if host.isprintable() and host)
    base_topic = said.get("base")
    if said.get("program") != PROGRAM or not hosts or not base_topic or not info.port:
        return None
    return Announcement(info.port, hosts, base_topic).url(info.parsed_addresses()), base_topic


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
