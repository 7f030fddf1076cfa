"""What looks on at an orchestrator, as its settings say."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from legion_iot.cli.console import err
from legion_iot.configuration.programs import (
    BASE_TOPIC,
    HOME_ASSISTANT,
    HOME_ASSISTANT_PREFIX,
    PAGE,
    PAGE_NAMES,
    PROMETHEUS,
    STATE_DIR,
)
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.configuration.settings import Settings
    from legion_iot.orchestrator.watchers import Watcher
    from legion_iot.transport.connection import BrokerAddress


def watchers(settings: Settings, address: BrokerAddress) -> Iterator[Watcher]:
    """Those that are wanted; what one of an earlier run has left and is not wanted any more, is taken back.

    Raises UsageError where something is not installed, BrokerError.
    """
    from legion_iot.orchestrator.home_assistant import HomeAssistant, settle  # noqa: PLC0415 — loads paho
    from legion_iot.transport.listening import ListenAddress  # noqa: PLC0415

    if settings[HOME_ASSISTANT]:
        yield HomeAssistant(address, settings[BASE_TOPIC], settings[HOME_ASSISTANT_PREFIX], settings[STATE_DIR])
    elif count := settle(settings[STATE_DIR], address, settings[BASE_TOPIC], None):
        err.print(f"Home Assistant forgets {count} devices, since home_assistant is off", soft_wrap=True)
    if settings[PROMETHEUS]:
        if find_spec("prometheus_client") is None:
            raise UsageError("--prometheus needs prometheus-client; install it with: pip install 'legion-iot[metrics]'")
        from legion_iot.orchestrator.prometheus import PrometheusMetrics  # noqa: PLC0415 — an optional extra

        yield PrometheusMetrics(ListenAddress.parse(settings[PROMETHEUS]), _say)
    if settings[PAGE]:
        if find_spec("websockets") is None:
            raise UsageError("--page needs websockets; install it with: pip install 'legion-iot[page]'")
        from legion_iot.page.live import LivePage  # noqa: PLC0415 — an optional extra

        listen = ListenAddress.parse(settings[PAGE])
        yield LivePage(listen, settings[PAGE_NAMES], address, settings[BASE_TOPIC], _say)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
