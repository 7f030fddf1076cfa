"""The cost matrices of Legion as published: S, E, R and A of each device, and T of the group.

Every unit is divided into strips by the devices' speeds. For the strip of device d:

- S_d[i] and R_d[j]: seconds to send the input of unit i to it, and to get the output of unit j from it;
- E_d[k]: seconds to run unit k alone;
- A_d[i, j] ≥ 1: input rows unit i needs when it is fused up to unit j, over the rows it needs alone.

    T[i, j] = max_d ( S_d[i] · A_d[i, j] + Σ_{k=i..j} E_d[k] · A_d[k, j] + R_d[j] )

Source: Choi, Lee, Kang and Park, Legion, ICCD 2021, doi 10.1109/ICCD53106.2021.00067.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.fits import Array
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.problem import Costs, Device, Group
from legion_iot.planning.strips import strips
from legion_iot.planning.tile_rows import TileRows


@dataclass(frozen=True, slots=True, eq=False)
class CostMatrices:
    """Seconds, by device in the order of `devices` and by unit; the letters are the paper's.

    `send`, `run` and `get` (S, E, R) have shape (devices, units), `enlargement` (A) (devices, units, units), with 1
    below the diagonal and where a device has no rows, `block` (T) (units, units), infinite below the diagonal.
    `run_deviation` and `block_deviation` are standard deviations of what E and T may really be; links are taken as
    they were measured. `rows` are the strips, by unit.
    """

    devices: tuple[str, ...]
    rows: tuple[Mapping[str, Interval], ...]
    send: Array
    run: Array
    get: Array
    enlargement: Array
    block: Array
    run_deviation: Array
    block_deviation: Array


def device_speeds(costs: Costs, tile_rows: TileRows, group: Group) -> dict[str, float]:
    """How many times per second each device can run the trunk, unit by unit; 1 where there is none."""
    units = range(len(tile_rows.heights))
    seconds = {
        device.name: sum(costs.tile_seconds(device.name, unit, unit, tile_rows.whole(unit)) for unit in units)
        for device in group.devices
    }
    return {name: 1.0 / total if total else 1.0 for name, total in seconds.items()}


def cost_matrices(predictor: Predictor, hub: str = "") -> CostMatrices:
    """The matrices of a group whose feature maps are scattered from and gathered at `hub`, a device's name, or at the

    orchestrator. What travels passes both ends' links and the broker's, at the speed of the slowest; nothing travels
    from a hub to itself.
    """
    group, tile_rows = predictor.group, predictor.tile_rows
    count = len(tile_rows.heights)
    speeds = device_speeds(predictor, tile_rows, group)
    rows = tuple(strips(height, speeds) for height in tile_rows.heights)
    shape = (len(group.devices), count)
    send, run, get, deviation = (np.zeros(shape) for _ in range(4))
    link = group[hub].link if hub else group.orchestrator
    for number, device in enumerate(group.devices):
        for unit in range(count):
            region = Region(rows[unit][device.name], tile_rows.whole(unit).columns)
            if region.area:
                estimate = predictor.tile_estimate(device.name, unit, unit, region)
                run[number, unit], deviation[number, unit] = estimate.seconds, estimate.deviation
                if device.name != hub:
                    needed = tile_rows.input_bytes(unit, unit, region)[0]
                    made = _output_bytes(predictor, unit, region)
                    send[number, unit] = _transfer_seconds(needed, link, device, group)
                    get[number, unit] = _return_seconds(made, link, device, group)
    enlargement = enlargements(tile_rows, group.names, rows)
    block = block_costs(send, run, get, enlargement)
    # Of the slowest device; its units err alike.
    slowest = _device_costs(send, run, get, enlargement).argmax(axis=0)
    errors = _device_costs(np.zeros(shape), deviation, np.zeros(shape), enlargement)
    block_deviation = np.take_along_axis(errors, slowest[None], axis=0)[0]
    return CostMatrices(group.names, rows, send, run, get, enlargement, block, deviation, block_deviation)


def enlargements(tile_rows: TileRows, devices: Sequence[str], rows: Sequence[Mapping[str, Interval]]) -> Array:
    """A, of shape (devices, units, units), for the strips that `rows` gives each device of each unit."""
    count = len(rows)
    enlargement = np.ones((len(devices), count, count))
    for number, device in enumerate(devices):
        regions = [Region(rows[unit][device], tile_rows.whole(unit).columns) for unit in range(count)]
        alone = np.array([tile_rows.input_bytes(k, k, r)[0] if r.area else 0 for k, r in enumerate(regions)])
        for last, region in enumerate(regions):
            if region.area:
                read = tile_rows.input_bytes(0, last, region)
                known = alone[: last + 1] > 0
                ratio = np.divide(read, alone[: last + 1], out=np.ones(last + 1), where=known)
                enlargement[number, : last + 1, last] = np.maximum(1.0, ratio)
    return enlargement


def block_costs(send: Array, run: Array, get: Array, enlargement: Array) -> Array:
    """T, of shape (units, units), from S, E, R and A; see the module's text."""
    costs = _device_costs(send, run, get, enlargement).max(axis=0)
    return np.where(np.tri(len(costs), k=-1, dtype=bool), np.inf, costs)


def _device_costs(send: Array, run: Array, get: Array, enlargement: Array) -> Array:
    """What T is the largest of: by device, first and last unit; 0 below the diagonal."""
    count = run.shape[1]
    costs = np.zeros((len(run), count, count))
    for last in range(count):
        enlarged = enlargement[:, : last + 1, last]
        computing = np.cumsum((run[:, : last + 1] * enlarged)[:, ::-1], axis=1)[:, ::-1]
        seconds = send[:, : last + 1] * enlarged + computing + get[:, last, None]
        # A device without rows of the block's output has no part in it.
        costs[:, : last + 1, last] = np.where(run[:, last, None] > 0, seconds, 0.0)
    return costs


def _transfer_seconds(size: float, hub: Link, device: Device, group: Group) -> float:
    return hub.latency + device.link.latency + size / min(hub.up, device.link.down, group.broker)


def _return_seconds(size: float, hub: Link, device: Device, group: Group) -> float:
    return hub.latency + device.link.latency + size / min(hub.down, device.link.up, group.broker)


def _output_bytes(predictor: Predictor, unit: int, region: Region) -> int:
    network = predictor.network
    outputs = tile_outputs(network, Block(unit, unit, ()), region)
    tensors = network.graph.tensors
    return sum(part.area * tensors[t].shape[-1] * tensors[t].numpy_dtype.itemsize for t, part in outputs.items())
