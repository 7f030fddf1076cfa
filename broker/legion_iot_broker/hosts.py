"""Under which names and addresses this machine can be reached, as far as it knows itself."""

from __future__ import annotations

import contextlib
import re
import socket

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Addresses of documentation (RFC 5737, RFC 3849): which interface would be taken is asked, and nothing is sent.
_ANYWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def own_hosts() -> tuple[str, ...]:
    """Addresses first, then names; `.local` is what mDNS calls the machine. Loopback is left out."""
    found: list[str] = []
    for family, anywhere in _ANYWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))
            found.append(probe.getsockname()[0])
    name = socket.gethostname().lower()
    found += [name, f"{name.split('.')[0]}.local"]
    return tuple(dict.fromkeys(host for host in found if ":" in host or all(map(_LABEL.fullmatch, host.split(".")))))
