"""The live page as what looks on at an orchestrator: it serves the page, and all else comes by MQTT."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace

from legion_iot.errors import PasswordRefusedError, UsageError
from legion_iot.page.files import files
from legion_iot.page.server import PageServer
from legion_iot.transport.connection import BrokerAddress, is_loopback
from legion_iot.transport.listening import ListenAddress
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.tls import client_context

OPEN_SECONDS = 15.0


class LivePage:
    """Serves the page of a group at `listen` from `start` to `close`.

    `say` is told where it is. `broker` is the orchestrator's: browsers get its address and its certificate, which TLS
    may ask for, but neither its name nor its password. `names` are hosts by which the page may be called, beside
    addresses and localhost.
    """

    def __init__(
        self, listen: ListenAddress, names: tuple[str, ...], broker: BrokerAddress, base_topic: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        tls = client_context(broker) if broker.tls else None
        content = files(base_topic, login=broker.user is not None)
        self._server = PageServer(listen, names, broker, tls, content)
        self._broker, self._is_open, self._say = broker, not is_loopback(listen.host), say

    def start(self) -> None:
        """Begin to listen; raises UsageError where that cannot be or must not be, BrokerError."""
        if self._broker.certificate is not None:
            _check_that_passwords_count(self._broker)
        self._say(f"the live page is at {self._server.start()}")
        if self._is_open:
            self._say("everybody in that network can open it, and what it carries is not encrypted: see docs/page.md")

    def metrics(self, metrics: object) -> None:
        """Browsers hear of it by MQTT."""

    def planned(self, plan: object) -> None:
        """Browsers hear of it by MQTT."""

    def ended(self, ended: object) -> None:
        """Browsers hear of it by MQTT."""

    def close(self) -> None:
        """End it for all browsers; idempotent."""
        self._server.close()


def _check_that_passwords_count(broker: BrokerAddress) -> None:
    """Raises UsageError where the certificate alone lets in whoever shows it, as browsers would through the relay."""
    nobody = replace(broker, user=f"page-{secrets.token_hex(8)}", password=secrets.token_hex(16))
    connection = PahoConnection(nobody, f"legion-page-{secrets.token_hex(8)}", lambda event: None)
    with contextlib.suppress(PasswordRefusedError):
        try:
            connection.open(OPEN_SECONDS)
        finally:
            connection.close()
        raise UsageError(
            f"{broker.endpoint} asks for no password beside the certificate, so whoever opens the page would be the "
            "orchestrator: leave --page out, or have the broker ask for one"
        )
