"""A live group as a planner sees it: who is online, on what link, and what was measured, by what the broker retains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import AgentError
from legion_iot.orchestrator.following import client_id
from legion_iot.orchestrator.observed import Observed
from legion_iot.planning.links import ASSUMED, Link, bounded
from legion_iot.planning.problem import Device, Group, measured_group
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.planning.samples import Samples
from legion_iot.profiles import MEASUREMENTS, ProfileFile
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.retained import read_retained
from legion_iot.wire.messages import Profile
from legion_iot.wire.topics import Topics


@dataclass(frozen=True, slots=True)
class LiveGroup:
    """The devices that are online, in order of their names; `assumed` are those whose link nobody has measured."""

    group: Group
    samples: Samples
    assumed: tuple[str, ...] = ()


def read_group(address: BrokerAddress, base_topic: str = "legion", state_directory: Path | None = None) -> LiveGroup:
    """The group at a broker; `state_directory` has what an orchestrator on this machine has measured.

    Raises BrokerError where the broker cannot be used, AgentError where no agent is online.
    """
    topics = Topics(base_topic)
    said = [topics.agent("+", kind) for kind in ("profile", "info", "state")]
    observed = Observed.of(topics, read_retained(address, client_id(), said))
    path = None if state_directory is None else state_directory / MEASUREMENTS
    known = ProfileFile(path, address.endpoint)
    return live_group(observed, known.samples, known.link)


def live_group(observed: Observed, samples: Samples, own_link: Link | None) -> LiveGroup:
    """What agents say of themselves, put together with what the orchestrator has measured.

    Raises AgentError where no agent is online.
    """
    names = sorted(name for name, state in observed.states.items() if state.is_present)
    names = [name for name in names if name in observed.infos]
    if not names:
        raise AgentError("no agent is online; start agents with: legion-agent --broker URL")
    links = _links(observed.profiles, own_link)
    devices = []
    for name in names:
        info = observed.infos[name]
        devices.append(Device(name, info.board_class, links.get(name, ASSUMED), info.memory_bytes))
        if (profile := observed.profiles.get(name)) is not None:
            own = (sample for sample in profile.samples if sample.board == profile.board)
            samples = samples.merge(Samples.of(own))
    group = measured_group(devices, links.get(ORCHESTRATOR, ASSUMED))
    return LiveGroup(group, samples, tuple(name for name in (*names, ORCHESTRATOR) if name not in links))


def _links(profiles: Mapping[str, Profile], own_link: Link | None) -> dict[str, Link]:
    links = {name: bounded(profile.link) for name, profile in profiles.items() if profile.link is not None}
    return links if own_link is None else {**links, ORCHESTRATOR: own_link}
