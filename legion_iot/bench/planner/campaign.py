"""Every recorded network on every group, by the planners `fss`, `legion` and `auto`, on the recorded times.

What a plan truly takes is the estimate over these; what was predicted, the estimate over what its planner knew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from legion_iot.bench.planner.recorded_network import Outcome, RecordedNetwork, group_of, label
from legion_iot.bench.planner.trace import Trace
from legion_iot.model.blocks import divide
from legion_iot.model.synthetic import NETWORKS
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.planners.auto import auto, auto_within_fss
from legion_iot.planning.planners.fss import fss
from legion_iot.planning.planners.halo import halo_plan
from legion_iot.planning.planners.legion import legion
from legion_iot.planning.problem import Problem
from legion_iot.planning.samples import Samples

GROUPS = ((1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (0, 1), (0, 3), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3))
QUICK_GROUPS = ((1, 0), (3, 0), (6, 0), (3, 3))
ORDER = ("vgg16", "vgg19", "yolov2", "resnet34", "mobilenet-v2")
QUICK_ORDER = ("vgg16", "vgg19")

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One network on one group. Seconds are those of a request, in truth.

    `within` is `auto` held to the plans that `fss` chooses among; `cold` is `auto` that knows nothing before, `kept`
    the one that keeps samples from cell to cell. `single` is the quickest device alone, `optimum` the best plan that
    the search over all plans finds with the recorded times in hand, `bound` what no plan can beat.
    """

    network: str
    group: str
    devices: int
    fss: Outcome
    legion: Outcome
    within: Outcome
    cold: Outcome
    kept: Outcome
    single: float
    optimum: float
    bound: float


def cells(trace: Trace, networks: Sequence[str], groups: Sequence[Sequence[int]], progress: Progress) -> Iterator[Cell]:
    """All cells, in the order of the campaign."""
    samples = Samples()
    for row, name in enumerate(networks):
        recorded = RecordedNetwork(divide(NETWORKS[name](0)), trace.networks[name])
        for column, counts in enumerate(groups):
            progress(f"{name} on {label(counts)}", (row * len(groups) + column) / (len(networks) * len(groups)))
            cell = _cell(name, recorded, counts, samples)
            samples = cell.kept.samples
            yield cell


def _cell(name: str, recorded: RecordedNetwork, counts: Sequence[int], samples: Samples) -> Cell:
    group = group_of(counts)
    played = {planner.__name__: recorded.play(planner, group) for planner in (fss, legion, auto_within_fss, auto)}
    kept = recorded.play(auto, group, samples)
    optimum = min(recorded.latency(halo_plan(Problem(recorded.network, group), recorded.costs(group)), group),
                  kept.latency, *(outcome.latency for outcome in played.values()))  # fmt: skip
    return Cell(
        name,
        label(counts),
        len(group.devices),
        played["fss"],
        played["legion"],
        played["auto_within_fss"],
        played["auto"],
        kept,
        recorded.single_seconds(group),
        optimum,
        lower_bound(recorded.network, group, recorded.costs(group)),
    )
