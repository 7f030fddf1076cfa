"""Where the time of `legion bench fleet` goes: accounts that sum, what devices spend, networks of other sizes."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.bench.fleet.account import Account, Accountant, as_traced, mean, seconds_alone, without_links
from legion_iot.bench.fleet.networks import family, of_other_depths, of_other_sizes, path_of
from legion_iot.bench.fleet.spending import Spent, average, interface_bytes
from legion_iot.errors import UsageError
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.estimate import estimate
from legion_iot.planning.links import Link
from legion_iot.planning.problem import Group
from legion_iot.planning.routing import ORCHESTRATOR, route
from legion_iot.planning.traffic import EXACT, messages
from legion_iot.planning.whole import whole_plan
from legion_iot.tracing.timeline import Timeline
from tests.planning.groups import random_costs, random_group, with_handling
from tests.planning.plans import random_plan
from tests.runtime.networks import NETWORKS

# --- accounts ---


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_prediction_is_accounted_for_to_the_end(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    plan = dataclasses.replace(random_plan(network, draw), replicas=())
    group, costs = random_group(draw), random_costs(network, draw)
    group = with_handling(group, draw) if seed % 2 else group
    predicted = estimate(network, plan, group, costs)
    account = Accountant(network, group, route(network, plan), EXACT).predicted(predicted)
    assert account.seconds == pytest.approx(predicted.latency)
    assert min(account.parts.values()) >= -1e-9
    assert account.client == account.sending == account.orchestrator == 0
    assert account.computing <= sum(bar.end - bar.start for bar in predicted.bars if bar.kind == "compute") + 1e-9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["chain", "residual"])  # of others, an output leaves while the tail computes
def test_one_device_computes_and_waits_for_its_link_alone(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    group = dataclasses.replace(random_group(draw), broker=float("inf"))
    costs = random_costs(network, draw)
    device = group.names[0]
    plan = whole_plan("single", network, device)
    predicted = estimate(network, plan, group, costs)
    account = Accountant(network, group, route(network, plan), EXACT).predicted(predicted)
    computing = sum(bar.end - bar.start for bar in predicted.bars if bar.kind == "compute")
    assert account.computing == pytest.approx(computing)
    assert account.links + account.waiting == pytest.approx(predicted.latency - computing)
    assert account.queued == pytest.approx(0)


def test_handling_of_what_came_last_is_waited_for() -> None:
    """One device, one message each way: half a second of handling before it computes, and half after that."""
    network, draw = NETWORKS["chain"], random.Random(2)
    quick, costs = random_group(draw, ("ant",)), random_costs(network, draw)
    slow = dataclasses.replace(quick.devices[0].link, message_seconds=0.5)
    group = dataclasses.replace(quick, devices=(dataclasses.replace(quick.devices[0], link=slow),))
    routing = route(network, whole_plan("single", network, "ant"))
    plan = whole_plan("single", network, "ant")
    with_it = Accountant(network, group, routing, EXACT).predicted(estimate(network, plan, group, costs))
    without = Accountant(network, quick, routing, EXACT).predicted(estimate(network, plan, quick, costs))
    tensors = network.graph.tensors
    sent = [messages(transfer, tensors[transfer.tensor]) for transfer in routing.transfers if transfer.source != "ant"]
    assert [len(each) for each in sent] == [1]
    assert with_it.queued == pytest.approx(without.queued) == 0
    assert with_it.computing == pytest.approx(without.computing)
    assert with_it.waiting - without.waiting == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_what_a_request_took_is_accounted_for_to_the_end(seed: int) -> None:
    network, draw = NETWORKS["residual"], random.Random(seed)
    plan = dataclasses.replace(random_plan(network, draw), replicas=())
    group, routing = random_group(draw), route(network, plan)
    predicted = estimate(network, plan, group, random_costs(network, draw))
    traced = as_traced(predicted, routing, _links(group))
    times = dataclasses.replace(traced.times, taken=-0.25, published=traced.times.ended + 0.5)
    slower = {key: dataclasses.replace(timing, sending=0.001) for key, timing in traced.timings.items()}
    measured = dataclasses.replace(traced, times=times, timings=slower)
    accountant = Accountant(network, group, routing, EXACT)
    account = accountant.measured(Timeline(routing, (measured,), {}), measured, predicted.latency + 1.0)
    assert account is not None
    assert account.seconds == pytest.approx(predicted.latency + 1.0)
    assert account.client == pytest.approx(0.25)
    assert account.orchestrator == pytest.approx(0.75)


def test_nothing_is_accounted_for_where_a_report_was_lost() -> None:
    network, draw = NETWORKS["residual"], random.Random(1)
    plan = dataclasses.replace(random_plan(network, draw), replicas=())
    group, routing = random_group(draw), route(network, plan)
    traced = as_traced(estimate(network, plan, group, random_costs(network, draw)), routing, _links(group))
    lost = dataclasses.replace(traced, timings=dict(list(traced.timings.items())[1:]))
    assert Accountant(network, group, routing, EXACT).measured(Timeline(routing, (lost,), {}), lost, 9.0) is None


def _links(group: Group) -> dict[str, Link]:
    return {device.name: device.link for device in group.devices} | {ORCHESTRATOR: group.orchestrator}


def test_messages_alone_on_their_links() -> None:
    up, down = Link(0.01, 100.0, 1e9), Link(0.02, 1e9, 50.0)
    assert seconds_alone([], up, down) == 0
    assert seconds_alone([100], up, down) == pytest.approx(1.0 + 0.01 + 2.0 + 0.02)
    # The slower side is busy all the time; the other one hides behind it but for the first message.
    assert seconds_alone([100] * 5, up, down) == pytest.approx(1.0 + 0.01 + 5 * 2.0 + 0.02)


def test_the_mean_is_that_of_each_part() -> None:
    both = [Account(client=1.0, links=3.0), Account(links=1.0, queued=2.0)]
    assert mean(both) == Account(client=0.5, links=2.0, queued=1.0)
    assert mean([]).seconds == 0


def test_without_links_only_computing_bounds() -> None:
    draw = random.Random(3)
    network, group = NETWORKS["chain"], random_group(draw)
    costs = random_costs(network, draw)
    assert lower_bound(network, without_links(group), costs) <= lower_bound(network, group, costs) * (1 + 1e-9)
    one = dataclasses.replace(group, devices=group.devices[:1])
    name = one.names[0]
    whole = estimate(network, whole_plan("single", network, name), without_links(one), costs).latency
    assert lower_bound(network, without_links(one), costs) <= whole


# --- what devices spend ---

NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0
  eth0: 2345 20 0 0 0 0 0 0 6789 30 0 0 0 0 0 0
"""  # noqa: E501 — as the kernel writes it


def test_bytes_are_those_of_the_link() -> None:
    assert interface_bytes(NET_DEV) == {"eth0": (2345, 6789)}
    assert interface_bytes("") == {}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e7)), min_size=1, max_size=5))
def test_what_turns_cost_on_average(turns: list[tuple[float, float]]) -> None:
    spent = [(Spent("f1", 0.2, processor, 0.1, sent, 2 * sent),) for processor, sent in turns]
    (found,) = average(spent)
    assert found.processor == pytest.approx(sum(processor for processor, _ in turns) / len(turns))
    assert found.received == pytest.approx(2 * found.sent)
    assert found.handling == pytest.approx(max(0.0, found.processor - 0.1) / 0.2)


# --- networks of other sizes and depths ---


def test_relatives_are_made_for_their_size_and_depth(tmp_path: Path) -> None:
    said: list[str] = []
    small = path_of("vgg11-32px", tmp_path, lambda text, fraction: said.append(text))
    network = divide(tflite.open_file(small))
    graph = network.graph
    assert graph.tensors[graph.inputs[0]].shape == (1, 32, 32, 3)
    assert sum(op.kind == "CONV_2D" for op in graph.ops) == 8  # and three fully connected ones, as published
    twice = divide(tflite.open_file(path_of("vgg11-64px", tmp_path, lambda text, fraction: None)))
    assert twice.flops == pytest.approx(4 * network.flops, rel=0.01)
    assert said == ["making vgg11-32px"]


def test_relatives_by_name() -> None:
    assert family(("yolov2", "resnet34")) == "resnet34"
    assert family(("hed",)) == "vgg16"
    assert of_other_depths("vgg16") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert of_other_sizes("resnet18")[0] == "resnet18-96px"
    assert "resnet18" in of_other_sizes("resnet18")


@pytest.mark.parametrize("name", ["vgg16-33px", "vgg16-0px", "vgg16-4096px", "yolov2-96px", "vgg12", "vgg16-"])
def test_networks_that_there_are_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        path_of(name, tmp_path, lambda text, fraction: None)


def test_sizes_travel_as_the_plan_says() -> None:
    """Links of an account are those of really sent messages: their bytes are all of the input's."""
    network = NETWORKS["chain"]
    graph = network.graph
    plan = whole_plan("single", network, "a")
    sent = [t for t in route(network, plan).transfers if t.source == ORCHESTRATOR]
    total = sum(size for each in sent for size in messages(each, graph.tensors[each.tensor]))
    shape = graph.tensors[graph.inputs[0]].shape
    assert total == 4 * shape[0] * shape[1] * shape[2] * shape[3]
