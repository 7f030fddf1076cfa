"""`legion-agent`: the program a device runs."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable

from legion_iot.configuration.programs import (
    BASE_TOPIC,
    BOARD,
    CPU_QUOTA,
    CPU_SHARE,
    MEMORY_MB,
    MODEL_DISK_MB,
    NAME,
    STATE_DIR,
    THREADS,
    VERBOSE,
    XNNPACK,
    address,
    configured,
    unknown_variables,
)
from legion_iot.configuration.report import checked, columns, rows, to_json
from legion_iot.configuration.settings import Settings
from legion_iot.errors import LegionError
from legion_iot.notify import Notifier
from legion_iot.transport.credentials import Bundle
from legion_iot_agent.arguments import INSTALLING, parser


def main(arguments: list[str] | None = None) -> None:
    """Run the agent until it is told to stop; exits with an error's code and one line that names it."""
    options = parser().parse_args(arguments)
    try:
        sys.exit(_carry_out(options))
    except LegionError as error:
        print(f"legion-agent: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _carry_out(options: argparse.Namespace) -> int:
    if options.command in INSTALLING:
        from legion_iot_agent.commands import carry_out  # noqa: PLC0415 — loads what installs

        carry_out(options)
        return 0
    settings, bundle = configured("agent", vars(options), os.environ, options.config)
    if options.command == "config":
        return _configuration(options.action, settings, options.as_json)
    _run(settings, bundle, options.until_stdin_closes)
    return 0


def _configuration(action: str, settings: Settings, as_json: bool) -> int:
    for sentence in unknown_variables(os.environ):
        print(f"legion-agent: {sentence}", file=sys.stderr)
    if as_json:
        print(json.dumps({"schema": 1, "agent": (to_json if action == "show" else checked)(settings)}))
    elif action == "show":
        print(columns(rows(settings)))
    else:
        read = ", ".join(map(str, settings.files)) or "no file"
        print(f"the settings are right ({read})")
    return 0


def _run(settings: Settings, bundle: Bundle | None, until_stdin_closes: bool) -> None:
    # Imported here, so that --help does not wait for numpy and the runtime.
    from legion_iot_agent.leaving import heed_signals  # noqa: PLC0415
    from legion_iot_agent.service import AgentOptions, AgentService  # noqa: PLC0415

    logging.basicConfig(
        level=logging.INFO if settings[VERBOSE] else logging.ERROR,
        format="legion-agent: %(message)s",
        stream=sys.stderr,
    )
    memory_mb, model_disk_mb = settings[MEMORY_MB], settings[MODEL_DISK_MB]
    service = AgentService(
        AgentOptions(
            broker=address(settings, bundle),
            name=settings[NAME],
            state_directory=settings[STATE_DIR],
            base_topic=settings[BASE_TOPIC],
            threads=settings[THREADS],
            xnnpack=settings[XNNPACK],
            cpu_share=settings[CPU_SHARE],
            cpu_quota=settings[CPU_QUOTA],
            board=settings[BOARD],
            memory_bytes=None if memory_mb is None else memory_mb * 1_000_000,
            model_disk_bytes=None if model_disk_mb is None else model_disk_mb * 1_000_000,
        ),
        Notifier(os.environ),
    )
    if os.environ.get("WATCHDOG_USEC"):
        faulthandler.enable()  # where it hung, in the journal, when the watchdog ends it
    heed_signals(service.drain)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(service.stop,), daemon=True).start()
    service.run()


def _wait_for_end_of_input(then: Callable[[], None]) -> None:
    """Whoever started this process holds the other end of its standard input; when that is gone, so is the starter."""
    while os.read(0, 4096):
        pass
    then()


if __name__ == "__main__":
    main()
