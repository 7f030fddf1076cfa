"""Plans in which one device runs everything."""

from __future__ import annotations

from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.strips import whole_map


def whole_plan(planner: str, network: Network, agent: str) -> Plan:
    """The trunk as one block, of one tile, and the tail, all on one agent."""
    last = len(network.units) - 1
    blocks = (Block(0, last, (Tile(agent, whole_map(network, last)),)),) if network.units else ()
    return Plan(planner, blocks, agent)
