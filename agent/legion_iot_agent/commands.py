"""What `legion-agent` does other than taking part: becoming a service of this device, and out of it again."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from legion_iot.configuration.programs import AGENT, BROKER
from legion_iot.configuration.settings import resolve
from legion_iot.installation.places import Service
from legion_iot.installation.procedures import Wanted, install, status, uninstall


def carry_out(options: argparse.Namespace) -> None:
    """One of `arguments.INSTALLING`; raises LegionError."""
    if options.command == "status":
        found = status(Service("agent"))
        print(json.dumps({"schema": 1, **asdict(found)}) if options.as_json else "\n".join(found.lines))
        return
    service = Service("agent", options.root)
    if options.command == "uninstall":
        uninstall(service, options.keep, _say)
        return
    given = resolve(AGENT, {BROKER.key: options.broker}, {}, ())
    values = {} if given.is_default(BROKER) else {BROKER.key: given[BROKER]}
    bundle = options.bundle if options.command == "join" else None
    install(Wanted(service, bundle, values, not options.no_start), _say)


def _say(line: str) -> None:
    print(f"legion-agent: {line}", file=sys.stderr)
