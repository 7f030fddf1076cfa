"""What is asked of boards: little, nothing twice, and nothing that another group or network has asked already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from legion_iot.model.blocks import Network, divide
from legion_iot.model.signatures import unit_signatures
from legion_iot.model.synthetic import NETWORKS as SYNTHETIC
from legion_iot.planning.costs import Predictor
from legion_iot.planning.learning import learn
from legion_iot.planning.problem import Reading, TailRun, TileRun, Wish
from legion_iot.planning.strips import whole_map
from tests.planning.problems import Case, case


@pytest.fixture(scope="module")
def vgg16() -> Network:
    return divide(SYNTHETIC["vgg16"](0))


@pytest.fixture(scope="module")
def vgg19() -> Network:
    return divide(SYNTHETIC["vgg19"](0))


Answer = Callable[[tuple[Wish, ...]], dict[Wish, Reading]]

SPEEDS = {"ant": 2e9, "bee": 1e9, "cat": 1e9, "dog": 2e9}


def learned(given: Case, answer: Answer | None = None) -> tuple[Predictor, list[Wish]]:
    """The predictor, and everything that was asked for; answered truly unless told otherwise."""
    asked: list[Wish] = []
    learning = learn(given.problem)
    readings: dict[Wish, Reading] | None = None
    while True:
        try:
            wishes = next(learning) if readings is None else learning.send(readings)
        except StopIteration as end:
            predictor: Predictor = end.value
            return predictor, asked
        asked += wishes
        readings = (answer or given.answer)(wishes)


def test_each_signature_is_asked_of_one_device_of_a_board_at_two_heights_at_most(vgg16: Network) -> None:
    given = case(vgg16, SPEEDS)
    _, asked = learned(given)
    signatures = unit_signatures(vgg16)
    assert len(set(asked)) == len(asked)
    by_board: dict[tuple[str, str], int] = {}
    for wish in asked:
        assert isinstance(wish, (TileRun, TailRun))
        if isinstance(wish, TileRun):
            assert wish.first == wish.last
            key = given.problem.group[wish.device].board, signatures[wish.first]
            by_board[key] = by_board.get(key, 0) + 1
    assert max(by_board.values()) <= 2
    # VGG-16 has nine different convolutions; one of its five pools stands for all, and the cheaper convolutions are
    # asked for once.
    assert len(asked) <= 2 * (9 + 1 + 5)


def test_what_was_asked_tells_the_time_of_the_whole_network(vgg16: Network) -> None:
    given = case(vgg16, SPEEDS)
    predictor, _ = learned(given)
    last = len(vgg16.units) - 1
    for name in SPEEDS:
        exact = given.costs.tile_seconds(name, 0, last, whole_map(vgg16, last))
        assert predictor.tile_seconds(name, 0, last, whole_map(vgg16, last)) == pytest.approx(exact, rel=0.1)


def test_other_groups_of_known_boards_and_networks_of_known_layers_cost_nothing(vgg16: Network, vgg19: Network) -> None:
    predictor, _ = learned(case(vgg16, SPEEDS))
    for network, speeds in ((vgg16, {"elk": 1e9}), (vgg16, {"fox": 2e9, "gnu": 2e9}), (vgg19, SPEEDS)):
        given = case(network, speeds)
        known = dataclasses.replace(given, problem=dataclasses.replace(given.problem, samples=predictor.samples))
        assert learned(known)[1] == []


def test_a_new_board_is_asked_and_a_known_one_is_not(vgg16: Network) -> None:
    predictor, _ = learned(case(vgg16, {"ant": 2e9}))
    given = case(vgg16, {"ant": 2e9, "bee": 1e8})
    _, asked = learned(
        dataclasses.replace(given, problem=dataclasses.replace(given.problem, samples=predictor.samples))
    )
    assert asked
    assert {wish.device for wish in asked if isinstance(wish, (TileRun, TailRun))} == {"bee"}


def test_a_board_shows_each_class_of_arithmetic() -> None:
    """MobileNet's depthwise convolutions and its last pool are a small part of its arithmetic, and are asked for."""
    network = divide(SYNTHETIC["mobilenet-v1"](0))
    _, asked = learned(case(network, {"ant": 1e9}))
    kinds = {network.graph.ops[network.units[wish.first].ops[0]].kind for wish in asked if isinstance(wish, TileRun)}
    assert kinds == {"CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"}


def test_nonsense_from_a_board_ends() -> None:
    """A board that reports zeros is asked each run once, and no more."""
    network = divide(SYNTHETIC["vgg16"](0))
    _, asked = learned(case(network, {"ant": 1e9}), lambda wishes: {wish: Reading(0.0) for wish in wishes})
    assert asked
    assert len(set(asked)) == len(asked)
