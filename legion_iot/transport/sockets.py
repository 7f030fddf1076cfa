"""What we ask of a TCP socket to a broker, and what its failures mean to a user."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from legion_iot.errors import BrokerError
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.tls import explain

# Unacknowledged bytes for that long mean a cut link; milliseconds, and never less than a busy radio link needs.
LEAST_PATIENCE_MS = 3_000
INTERACTIVE = 6  # TC_PRIO_INTERACTIVE of linux/pkt_sched.h: the first band of pfifo_fast


def tune(sock: Any, keep_alive: int) -> None:
    """Send small packets at once, and notice a cut link in half a keep-alive (seconds) instead of one and a half."""
    # Without this a QoS 1 round trip of 1 KB costs 44 ms: Nagle waits for the peer's delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(LEAST_PATIENCE_MS, keep_alive * 500))


def prefer(sock: Any) -> None:
    """Have this machine's own queue send the socket's packets before those of sockets that are not preferred."""
    if hasattr(socket, "SO_PRIORITY"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, INTERACTIVE)


def acknowledge_now(sock: Any) -> None:
    """Re-arm TCP_QUICKACK: a broker that leaves Nagle on waits for our acknowledgement before its next small packet."""
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@contextlib.contextmanager
def readable_errors(address: BrokerAddress) -> Iterator[None]:
    """Turn what a failed connection attempt raises into a `BrokerError` that names endpoint, cause and cure."""
    where = f"the broker at {address.endpoint}"
    try:
        yield
    except ConnectionRefusedError as error:
        raise BrokerError(f"nobody listens at {address.endpoint}: start the broker or correct the address") from error
    except socket.gaierror as error:
        raise BrokerError(f"unknown host {address.host!r} in {address}: correct the address") from error
    except TimeoutError as error:
        raise BrokerError(f"{where} cannot be reached in time: check network and firewall") from error
    except ssl.SSLError as error:
        raise explain(error, address) from error
    except (OSError, ValueError) as error:
        raise BrokerError(f"{where} cannot be reached: {error}") from error


class Flapping:
    """How often in a row a link ended soon after the broker had accepted us, and how long to wait because of it.

    A broker that closes a taken-over link without saying so looks like this: two clients of one id push each other out.
    """

    # Sooner than this is soon; and the longest wait.
    SOON_SECONDS = 5.0
    LONGEST_SECONDS = 32

    def __init__(self) -> None:
        self.count = 0

    def link_lasted(self, seconds: float) -> None:
        """A link ended after that time."""
        self.count = self.count + 1 if seconds < self.SOON_SECONDS else 0

    def wait_range(self, first: int, longest: int) -> tuple[int, int]:
        """The first and the longest wait before connecting again, whole seconds; the first one doubles each time."""
        least = min(first << max(0, self.count - 1), self.LONGEST_SECONDS)
        return least, max(least, longest)
