"""Which agents send their maps to each other packed (`wire.zeros`), by their links and by how fast they pack.

The theory. A map goes at the rate of the slower of two links, the sender's up and the receiver's down. To pack a byte
costs time of both processors, which compute nothing meanwhile, and saves 1 - 1/ratio of its time on the link. What does
not shrink by `LEAST_RATIO` travels as it is, so packing pays for a pair of agents when it would at that ratio. A link
that nobody has measured is taken to be fast enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.planning.links import Link
from legion_iot.planning.routing import Routing
from legion_iot.planning.traffic import least_element_bytes
from legion_iot.wire.messages import AgentInfo, CodecSpeed
from legion_iot.wire.zeros import CODEC, LEAST_RATIO

# Speeds come from a few milliseconds at an agent's start: what is saved has to be that many times what it costs.
MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Party:
    """What is known of an agent that sends or receives; `link` is None where it was not measured."""

    info: AgentInfo
    link: Link | None


def pays(rate: float, ratio: float, packs: float, unpacks: float) -> bool:
    """Whether packing saves time: all in bytes per second, before packing; `ratio` is how much smaller they get."""
    if min(rate, packs, unpacks) <= 0:
        return False
    return (1 - 1 / ratio) / rate > MARGIN * (1 / packs + 1 / unpacks)


def receivers_to_pack_for(
    network: Network, routing: Routing, wire: str, known: Mapping[str, Party]
) -> dict[str, tuple[str, ...]]:
    """For each sender of a plan under that wire dtype, the receivers whose maps it is to pack."""
    pairs: dict[tuple[str, str], int] = {}
    for transfer in routing.transfers:
        pair = transfer.source, transfer.target
        if pair[0] != pair[1] and pair[0] in known and pair[1] in known:
            element_bytes = least_element_bytes(network.graph.tensors[transfer.tensor], wire)
            pairs[pair] = min(element_bytes, pairs.get(pair, element_bytes))
    packs: dict[str, tuple[str, ...]] = {}
    for (source, target), element_bytes in pairs.items():
        if _pays_between(known[source], known[target], element_bytes):
            packs[source] = (*packs.get(source, ()), target)
    return packs


def _pays_between(source: Party, target: Party, element_bytes: int) -> bool:
    packer, unpacker = _speed(source.info), _speed(target.info)
    if source.link is None or target.link is None or packer is None or unpacker is None:
        return False
    rate = min(source.link.up, target.link.down)
    packs, unpacks = packer.packs * _core(source.info), unpacker.unpacks * _core(target.info)
    return pays(rate, LEAST_RATIO, packs * element_bytes, unpacks * element_bytes)


def _speed(info: AgentInfo) -> CodecSpeed | None:
    return next((speed for speed in info.codecs if speed.codec == CODEC), None)


def _core(info: AgentInfo) -> float:
    """The part of one core that a device is held to."""
    return min(1.0, info.cpu_share) if info.cpu_share > 0 else 1.0
