"""`legion-agent`: the program a device runs."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from legion_iot import __version__
from legion_iot.errors import LegionError, UsageError
from legion_iot.files import state_directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="legion-agent",
        description="Join a group of devices that run neural networks together.",
        epilog="example: legion-agent --broker mqtt://192.168.1.10 --name kitchen-pi",
    )
    parser.add_argument(
        "--broker",
        default=os.environ.get("LEGION_BROKER", ""),
        metavar="URL",
        help="mqtt://host[:port] or mqtts://…, or the environment variable LEGION_BROKER (default: the bundle's, or "
        "this machine's)",
    )
    parser.add_argument(
        "--credentials",
        type=Path,
        default=os.environ.get("LEGION_CREDENTIALS") or None,
        metavar="FILE",
        help="the bundle of `legion broker add-device`, or the environment variable LEGION_CREDENTIALS",
    )
    parser.add_argument("--name", help=f"this agent's name in the group (default: the bundle's, or {_host_name()})")
    parser.add_argument("--base-topic", metavar="TOPIC", help="the group's topic (default: the bundle's, or legion)")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=state_directory(),
        metavar="DIR",
        help="models and measurements are kept here (%(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="compute threads (default: 1)")
    parser.add_argument(
        "--cpu-share", type=float, metavar="CORES", help="compute as slowly as with this part of a core, such as 0.2"
    )
    parser.add_argument(
        "--cpu-quota", type=float, metavar="CORES", help="what the kernel holds it to (default: its control group's)"
    )
    parser.add_argument(
        "--memory-mb", type=int, metavar="MB", help="memory this device may use (default: the machine's, or its limit)"
    )
    parser.add_argument("--board", metavar="NAME", help="what this device is called in the group (default: its model)")
    parser.add_argument("--no-xnnpack", action="store_true", help="use the runtime's builtin kernels")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input ends")
    parser.add_argument("--verbose", action="store_true", help="say what happens, on standard error")
    parser.add_argument("--version", action="version", version=f"legion-agent {__version__}")
    return parser


def _host_name() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:32] or "agent"


def main(arguments: list[str] | None = None) -> None:
    """Run the agent until it is told to stop; exits with an error's code and one line that names it."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.ERROR, format="legion-agent: %(message)s", stream=sys.stderr
    )
    try:
        _run(options)
    except LegionError as error:
        print(f"legion-agent: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(options: argparse.Namespace) -> None:
    # Imported here, so that --help does not wait for numpy and the runtime.
    from legion_iot.transport.credentials import (  # noqa: PLC0415
        DEFAULT_BASE_TOPIC,
        broker_address,
        check_role,
        read_bundle,
    )
    from legion_iot.wire.topics import check_agent_name  # noqa: PLC0415
    from legion_iot_agent.service import AgentOptions, AgentService  # noqa: PLC0415
    from legion_iot_agent.throttle import check_share  # noqa: PLC0415

    if options.threads < 1:
        raise UsageError(f"--threads is {options.threads}; give 1 or more")
    if options.memory_mb is not None and options.memory_mb < 1:
        raise UsageError(f"--memory-mb is {options.memory_mb}; give 1 or more")
    bundle = None if options.credentials is None else check_role(read_bundle(options.credentials), "agent")
    if bundle is not None and options.name not in (None, bundle.name):
        raise UsageError(f"--name is {options.name!r}, but the bundle is {bundle.name!r}'s: leave one of the two out")
    service = AgentService(
        AgentOptions(
            broker=broker_address(bundle, options.broker),
            name=check_agent_name(bundle.name if bundle else options.name or _host_name()),
            state_directory=options.state_dir,
            base_topic=options.base_topic or (bundle.base_topic if bundle else DEFAULT_BASE_TOPIC),
            threads=options.threads,
            xnnpack=not options.no_xnnpack,
            cpu_share=None if options.cpu_share is None else check_share(options.cpu_share),
            cpu_quota=None if options.cpu_quota is None else check_share(options.cpu_quota),
            board=options.board,
            memory_bytes=None if options.memory_mb is None else options.memory_mb * 1_000_000,
        )
    )
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    signal.signal(signal.SIGINT, lambda *_: service.stop())
    if options.until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(service.stop,), daemon=True).start()
    service.run()


def _wait_for_end_of_input(then: Callable[[], None]) -> None:
    """Whoever started this process holds the other end of its standard input; when that is gone, so is the starter."""
    while os.read(0, 4096):
        pass
    then()


if __name__ == "__main__":
    main()
