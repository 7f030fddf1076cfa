"""Device files: what can be written is read, what cannot be meant is refused in one line; costs by the formula."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import InputError
from legion_iot.model.arithmetic import ARITHMETIC_CLASSES, arithmetic_class, op_flops
from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.device_file import parse_device_file
from legion_iot.planning.links import Link
from legion_iot.planning.problem import Device
from legion_iot.planning.samples import Samples

GOOD = """
[[device]]
name = "pi"
count = 2
board = "pi-4"
speed = { conv = 12, depthwise = 5.5 }
overhead_ms = 0.5
memory_mb = 1000
link = { latency_ms = 0.5, up = "100 mbit", down = "12.5 Mbit/s" }

[[device]]
name = "fast"
speed = 80
link = { up = "1gbit", down = "800 kbit" }

[orchestrator]
link = { latency_ms = 0.2, up = "1 gbit", down = "2 gbit" }

[broker]
rate = "1 gbit"
"""


def test_a_group() -> None:
    devices = parse_device_file(GOOD)
    slow = Link(0.0005, 12.5e6, 12.5e6 / 8)
    assert devices.group.devices == (
        Device("pi1", "pi-4", slow, 1_000_000_000),
        Device("pi2", "pi-4", slow, 1_000_000_000),
        Device("fast", "fast", Link(0.0, 125e6, 1e5)),
    )
    assert devices.group.orchestrator == Link(0.0002, 125e6, 250e6)
    assert devices.group.broker == 125e6
    assert devices.speeds["pi-4"] == {"conv": 12e9, "depthwise": 5.5e9, "dense": 5.5e9, "other": 5.5e9}
    assert devices.speeds["fast"] == dict.fromkeys(ARITHMETIC_CLASSES, 80e9)
    assert devices.overheads == {"pi-4": 0.0005, "fast": 0.0}


ONE = """[[device]]
name = "a"
speed = 1
link = { up = "1 mbit", down = "1 mbit" }
"""


def test_without_orchestrator_and_broker_neither_costs_time() -> None:
    group = parse_device_file(ONE).group
    assert group.orchestrator == Link(0.0, math.inf, math.inf)
    assert group.broker == math.inf


LINK = 'link = { up = "1 mbit", down = "1 mbit" }'
WRONG = {
    "unknown key at the top": ("[brocker]\n" + ONE, "the file: unknown key 'brocker'; did you mean 'broker'?"),
    "unknown key of a device": (ONE + "memory = 1", "device 1: unknown key 'memory'; did you mean 'memory_mb'?"),
    "unknown key of a link": (
        ONE.replace("down", "dwn"),
        "device 1 (a), link: unknown key 'dwn'; did you mean 'down'?",
    ),
    "unknown class": (
        ONE.replace("= 1\n", "= { convolution = 1 }\n"),
        "speed: unknown key 'convolution'; there are conv, dense",
    ),
    "no devices": ("[broker]\nrate = '1 mbit'", "at least one [[device]]"),
    "no name": (ONE.replace('name = "a"', ""), "device 1: name is missing"),
    "a bad name": (ONE.replace('"a"', '"A b"'), "device 1: name 'A b' cannot be"),
    "the orchestrator's name": (ONE.replace('"a"', '"orchestrator"'), "'orchestrator' cannot be"),
    "a name twice": (ONE + ONE, "two devices are called 'a'"),
    "a bad board": (ONE + "board = ''", "board is ''"),
    "no link": (ONE.replace(LINK, ""), "device 1 (a): link is missing; give one such as link = {"),
    "a link that is none": (ONE.replace(LINK, "link = 100"), "device 1 (a): link is no table"),
    "no rate up": (ONE.replace('up = "1 mbit", ', ""), "device 1 (a), link: up is missing; give a rate"),
    "a rate without unit": (ONE.replace('up = "1 mbit"', "up = 100"), "link: up is 100; give a rate such as"),
    "a rate in words": (ONE.replace('up = "1 mbit"', 'up = "fast"'), "link: up is 'fast'"),
    "a negative rate": (ONE.replace('up = "1 mbit"', 'up = "-1 mbit"'), "link: up is '-1 mbit'"),
    "rate zero": (ONE.replace('up = "1 mbit"', 'up = "0 mbit"'), "link: up is '0 mbit'"),
    "rate beyond all": (ONE.replace('up = "1 mbit"', 'up = "99999 gbit"'), "from 1 kbit to 1000 gbit"),
    "negative latency": (ONE.replace("{ up", "{ latency_ms = -1, up"), "latency_ms is -1; give a number from 0"),
    "latency not a number": (ONE.replace("{ up", "{ latency_ms = nan, up"), "latency_ms is nan"),
    "no speed": (ONE.replace("speed = 1", ""), "device 1 (a): speed is missing; give GFLOP/s"),
    "speed zero": (ONE.replace("speed = 1", "speed = 0"), "speed is 0; give a number from 0.0001 to 10000"),
    "speed negative": (ONE.replace("speed = 1", "speed = -3"), "speed is -3"),
    "speed not a number": (ONE.replace("speed = 1", "speed = nan"), "speed is nan"),
    "speed infinite": (ONE.replace("speed = 1", "speed = inf"), "speed is inf"),
    "speed absurd": (ONE.replace("speed = 1", "speed = 1e9"), "speed is 1e+09"),
    "speed a text": (ONE.replace("speed = 1", 'speed = "12"'), "speed is '12'"),
    "speeds of nothing": (ONE.replace("speed = 1", "speed = {}"), "speed is empty"),
    "a class at zero": (ONE.replace("speed = 1", "speed = { conv = 0 }"), "device 1 (a), speed: conv is 0"),
    "a board at two speeds": (
        ONE + "board = 'x'\n" + ONE.replace('"a"', '"b"').replace("= 1\n", "= 2\n") + "board = 'x'",
        "device 2: board 'x' has another speed than before",
    ),
    "no memory": (ONE + "memory_mb = 0", "memory_mb is 0"),
    "overhead negative": (ONE + "overhead_ms = -1", "overhead_ms is -1"),
    "count zero": (ONE + "count = 0", "count is 0"),
    "too many": (ONE + "count = 60\n" + ONE.replace('"a"', '"b"') + "count = 60", "120 devices"),
    "an orchestrator without link": (ONE + "[orchestrator]", "give [orchestrator] with link = {"),
    "an orchestrator at a rate": (ONE + "[orchestrator]\nrate = 1", "orchestrator: unknown key 'rate'"),
    "a broker without rate": (ONE + "[broker]\nlink = 1", "broker: unknown key 'link'; there are rate"),
    "a broker that is no table": ("broker = 3\n" + ONE, "give [broker] with rate"),
    "no TOML": ("[[device", "no TOML"),
    "nested without end": ("a = " + "[" * 5000, "no TOML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    content, cause = WRONG[name]
    with pytest.raises(InputError, match=re.escape(cause)) as caught:
        parse_device_file(content)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(content: str) -> None:
    with pytest.raises(InputError):
        parse_device_file(content)


def _network() -> Network:
    net = GraphBuilder("classes")
    x = net.depthwise_conv2d(net.conv2d(net.input((1, 12, 8, 3)), 4, 3, activation="relu"), 3)
    x = net.max_pool(net.conv2d(x, 6, 1), 2)
    return divide(net.finish(net.softmax(net.fully_connected(net.global_mean(x), 5))))


def test_costs_are_arithmetic_over_speed_and_an_overhead_for_each_call() -> None:
    network = _network()
    speeds = {"conv": 12e9, "depthwise": 5.5e9, "dense": 5.5e9, "other": 5.5e9}
    told = parse_device_file(GOOD)
    costs = Predictor(network, told.group, Samples(), told.speeds, told.overheads)
    last = len(network.units) - 1
    whole = Region.whole(network.graph.tensors[network.units[last].reference])

    def seconds(ops: tuple[int, ...]) -> float:
        graph = network.graph
        return sum(
            op_flops(graph, graph.ops[i], math.prod(graph.tensors[graph.ops[i].outputs[0]].shape))
            / speeds[arithmetic_class(graph.ops[i].kind)]
            for i in ops
        )

    assert costs.tile_seconds("pi2", 0, last, whole) == pytest.approx(0.0005 + seconds(network.block_ops(0, last)))
    assert costs.tail_seconds("pi1") == pytest.approx(0.0005 + seconds(network.tail))
    assert costs.tile_seconds("fast", 0, last, whole) < costs.tile_seconds("pi1", 0, last, whole)
    half = Region(Interval(0, 3), whole.columns)
    assert costs.tile_seconds("pi1", last, last, half) == pytest.approx(
        0.0005 + seconds(network.units[last].ops) * len(half.rows) / len(whole.rows)
    )
    assert costs.tile_seconds("pi1", 0, last, Region(Interval(0, 0), whole.columns)) == 0
