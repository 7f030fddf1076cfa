"""Running again what strays: tiles that took longer than their units and blocks like theirs let expect.

While a tile was recorded, something else may have slowed the machine down for all its runs. So whoever records a trace
again into the same file adds runs to such tiles, and to all single units; the quickest run of a tile is what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

from legion_iot.bench.planner.measure import Bench, Job, Signature, most_runs, outputs, signature
from legion_iot.bench.planner.trace import KINDS, Kind, KindRecord, Sample
from legion_iot.bench.planner.truth import Truth, quickest
from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tile
from legion_iot.model.geometry import Interval
from legion_iot.model.graph import Graph

STRAYS = 1.03  # beyond what blocks of as many units take of the sum of these, at the median

BlockKey = tuple[int, int]


def visit_again(
    name: str,
    network: Network,
    records: Mapping[str, KindRecord],
    known: dict[Signature, tuple[int, ...]],
    progress: Callable[[str, float | None], None],
) -> None:
    """Add runs to the tiles of a recorded network that stray, and to those of single units.

    `known` are runs of like tiles of the networks before; it takes up those of this network.
    """
    bench = Bench.of(network)
    for kind in KINDS:
        record = records[kind.name]
        for key, samples in record.blocks.items():
            record.blocks[key] = [_with_known(network, kind, key, sample, known) for sample in samples]
    units = [(unit.index, unit.index) for unit in network.units]
    for position, key in enumerate(units):
        progress(f"{name}: unit {position} again", position / len(units))
        every = {(kind.name, sample) for kind in KINDS for sample in records[kind.name].blocks[key]}
        _run_again(network, bench, records, key, every, known)
    limits = {kind.name: _limits(network, records[kind.name], kind) for kind in KINDS}
    blocks = [key for key in records[KINDS[0].name].blocks if key[0] < key[1]]
    for position, key in enumerate(blocks):
        progress(f"{name}: units {key[0]} to {key[1]} again", position / len(blocks))
        strays = {
            (kind.name, sample)
            for kind in KINDS
            for sample, limit in zip(records[kind.name].blocks[key], limits[kind.name][key], strict=True)
            if quickest(sample) > limit
        }
        _run_again(network, bench, records, key, strays, known)


def _limits(network: Network, record: KindRecord, kind: Kind) -> dict[BlockKey, list[float]]:
    """For each sample of each block, the seconds beyond which it strays."""
    truth = Truth(network, record, kind)
    sums = {key: [truth.sum_of_units(key, sample) for sample in found] for key, found in record.blocks.items()}
    ratios: dict[int, list[float]] = {}
    for (first, last), found in record.blocks.items():
        for sample, total in zip(found, sums[first, last], strict=True):
            ratios.setdefault(last - first, []).append(quickest(sample) / total)
    usual = {length: statistics.median(values) for length, values in ratios.items()}
    return {key: [STRAYS * usual[key[1] - key[0]] * total for total in totals] for key, totals in sums.items()}


def _sub_model(network: Network, key: BlockKey, sample: Sample) -> Graph:
    first, last = key
    wanted = outputs(network, first, last, Interval(sample.start, sample.stop))
    return cut_tile(network, network.block_ops(first, last), wanted).graph


def _with_known(
    network: Network, kind: Kind, key: BlockKey, sample: Sample, known: dict[Signature, tuple[int, ...]]
) -> Sample:
    """The sample with the runs of its like, where these are more."""
    like = signature(kind, _sub_model(network, key, sample))
    if len(known.get(like, ())) > len(sample.runs):
        return replace(sample, runs=known[like])
    known[like] = sample.runs
    return sample


def _run_again(
    network: Network,
    bench: Bench,
    records: Mapping[str, KindRecord],
    key: BlockKey,
    chosen: set[tuple[str, Sample]],
    known: dict[Signature, tuple[int, ...]],
) -> None:
    """More runs for the samples of one block that are chosen, by kind."""
    jobs: list[tuple[KindRecord, int, Job]] = []
    for kind in KINDS:
        record = records[kind.name]
        for number, sample in enumerate(record.blocks[key]):
            if (kind.name, sample) in chosen:
                sub = _sub_model(network, key, sample)
                rows = Interval(sample.start, sample.stop)
                jobs.append((record, number, Job(kind, rows, sub, most_runs(quickest(sample)))))
    bench.run([job for _, _, job in jobs])
    for record, number, job in jobs:
        sample = record.blocks[key][number]
        record.blocks[key][number] = replace(sample, runs=(*sample.runs, *job.runs))
        known[signature(job.kind, job.sub)] = record.blocks[key][number].runs
