"""Who takes part in a demonstration at a broker with access rules: an orchestrator, a client, and agents."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import InputError, UsageError
from legion_iot.transport.credentials import Bundle, read_bundle


@dataclass(frozen=True, slots=True)
class Identities:
    """One bundle for each who connects."""

    orchestrator: Bundle
    client: Bundle
    agents: tuple[Bundle, ...]


def read_identities(directory: Path, agents: int | None) -> Identities:
    """Read the bundles `*.pem` in a directory, for that many agents or all; raises InputError or UsageError."""
    if not os.path.isdir(directory):  # where we may not look, pathlib's raises
        raise InputError(f"{directory}: no such directory; put the bundles of a group into one (--credentials)")
    bundles = [read_bundle(path) for path in sorted(directory.glob("*.pem"))]
    by_role = {role: [each for each in bundles if each.role == role] for role in ("orchestrator", "client", "agent")}
    for role in ("orchestrator", "client"):
        if len(by_role[role]) != 1:
            raise InputError(
                f"{directory} holds {len(by_role[role])} bundles with role {role}, and one is needed: "
                f"legion broker add-device NAME --role {role}"
            )
    found = by_role["agent"][:agents]
    if not found or (agents is not None and len(found) < agents):
        raise UsageError(f"{directory} holds bundles of {len(found)} agents: add more, or give a smaller --agents")
    bases = {each.base_topic for each in bundles}
    if len(bases) > 1:
        raise InputError(f"{directory} holds bundles of several groups ({', '.join(sorted(bases))}): keep them apart")
    return Identities(by_role["orchestrator"][0], by_role["client"][0], tuple(found))
