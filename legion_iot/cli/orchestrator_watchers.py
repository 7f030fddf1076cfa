"""What looks on at an orchestrator, as its settings say."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from legion_iot.cli.console import err
from legion_iot.configuration.programs import BASE_TOPIC, PAGE, PAGE_NAMES
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.configuration.settings import Settings
    from legion_iot.orchestrator.watchers import Watcher
    from legion_iot.transport.connection import BrokerAddress


def watchers(settings: Settings, address: BrokerAddress) -> Iterator[Watcher]:
    """Those that are wanted; raises UsageError where something is not installed."""
    if settings[PAGE]:
        if find_spec("websockets") is None:
            raise UsageError("--page needs websockets; install it with: pip install 'legion-iot[page]'")
        from legion_iot.page.live import LivePage  # noqa: PLC0415 — an optional extra
        from legion_iot.transport.listening import ListenAddress  # noqa: PLC0415

        listen = ListenAddress.parse(settings[PAGE])
        yield LivePage(listen, settings[PAGE_NAMES], address, settings[BASE_TOPIC], _say)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
