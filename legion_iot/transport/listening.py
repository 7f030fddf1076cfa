"""An address to listen on, as settings say it."""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.errors import UsageError


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server of ours listens; port 0 is any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read `address:port`, an IPv6 address in brackets; raises UsageError."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        is_bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not bare or (":" in bare) != is_bracketed or not (port.isascii() and port.isdecimal()):
            raise UsageError(f"{text!r:.60} is not address:port, as in 127.0.0.1:9464 or [::1]:9464")
        if int(port) > 65535:
            raise UsageError(f"{text!r:.60}: there is no port {port:.20}")
        return cls(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
