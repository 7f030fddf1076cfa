"""Files that are cut short, flipped or written to do harm: a clear error, no crash, no blow-up, never a wrong answer.

Mutants of small networks (nearly all structure, hardly any weights) are read, divided and cut in a child process with a
memory limit; those that pass are run, whole and as tiles, in further children, since the runtime itself may crash.
`LEGION_MUTANTS` sets how many; the default keeps the test short.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from legion_iot.bench.stitching import Bench, Tiling
from legion_iot.errors import LegionError, ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import cut_tail, cut_tile
from legion_iot_agent.executor import seeded_inputs

from .random_networks import RandomNetwork

MUTANTS = int(os.environ.get("LEGION_MUTANTS", "600"))
MOST_SECONDS = 5.0  # for one mutant, reading and cutting
MEMORY_GROWTH = 300 << 20  # bytes
HOSTILE_WORDS = (0, 1, 3, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def seeds_of_mutation() -> list[bytes]:
    networks = [RandomNetwork(seed, dtype, ops=10).graph() for seed in (3, 5, 8) for dtype in ("float32", "int8")]
    return [b"".join(bytes(chunk) for chunk in tflite.write(network)) for network in networks]


def mutants(first: int, count: int) -> Iterator[tuple[int, bytes]]:
    bases = seeds_of_mutation()
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        content = bytearray(bases[number % len(bases)])
        for _ in range(int(random.integers(1, 4))):
            _mutate(content, random)
        yield number, bytes(content)


def _mutate(content: bytearray, random: np.random.Generator) -> None:
    place = int(random.integers(0, max(1, len(content) - 4)))
    kind = int(random.integers(0, 10))
    if kind == 0:
        del content[place:]  # cut short
    elif kind <= 3:
        content[place : place + 1] = bytes([int(random.integers(0, 256))])
    elif kind <= 7:
        word = HOSTILE_WORDS[int(random.integers(0, len(HOSTILE_WORDS)))]
        aligned = place & ~3
        content[aligned : aligned + 4] = word.to_bytes(4, "little")
    else:
        other = int(random.integers(0, max(1, len(content) - 4))) & ~3
        aligned = place & ~3
        content[aligned : aligned + 4] = content[other : other + 4]


def read_and_cut(content: bytes) -> Network | None:
    """What the project makes of a file before any runtime sees it; None where it is refused."""
    try:
        network = divide(tflite.read(content))
        for unit in network.units:
            for region in Tiling.even(2).regions(network.graph.tensors[unit.reference]):
                if region.area:
                    tflite.write(cut_tile(network, unit.ops, {unit.reference: region}).graph)
        if network.tail:
            tflite.write(cut_tail(network).graph)
    except LegionError as error:
        assert "\n" not in str(error)
        return None
    return network


def _read_all(pipe: Connection, first: int, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    accepted, slowest = [], 0.0
    for number, content in mutants(first, count):
        start = time.monotonic()
        if read_and_cut(content) is not None:
            accepted.append(number)
        slowest = max(slowest, time.monotonic() - start)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    pipe.send((accepted, slowest, growth))


def _run_all(pipe: Connection, numbers: list[int]) -> None:
    """Run accepted mutants, whole and as tiles; tells the number before each, so that a crash has a name."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the runtime's complaints
    limit = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        pipe.send((number, "begun"))
        content = next(mutants(number, 1))[1]
        with tempfile.TemporaryDirectory() as directory:
            pipe.send((number, _run_one(content, Path(directory))))


def _run_one(content: bytes, directory: Path) -> str:
    try:
        network = divide(tflite.read(content))
        inputs = seeded_inputs(network.graph)
        bench = Bench(network, directory)
        (directory / "original.tflite").write_bytes(content)
        whole = bench.run_file(directory / "original.tflite", inputs)
    except (LegionError, MemoryError, KeyError):
        return "refused by the runtime"
    try:
        values = dict(zip(network.graph.inputs, inputs, strict=True))
        for unit in network.units:
            values.update(bench.run_block(unit.ops, Tiling.even(2), values))
        values.update(bench.run_tail(values))
    except ModelError:
        return "refused as tiles"
    outputs = [values[t] for t in network.graph.outputs]
    same = all(a.tobytes() == b.tobytes() for a, b in zip(outputs, whole, strict=True))
    return "equal" if same else "WRONG"


def test_mutants_are_refused_or_right() -> None:
    accepted, slowest, growth = _in_child(_read_all, 0, MUTANTS)
    assert slowest < MOST_SECONDS
    assert growth < MEMORY_GROWTH
    outcomes = Counter(_outcomes(accepted).values())
    outcomes["refused by the reader"] = MUTANTS - len(accepted)
    print(dict(outcomes))  # shown by pytest -s
    assert outcomes["WRONG"] == 0, [n for n, outcome in _outcomes(accepted).items() if outcome == "WRONG"]
    assert outcomes["equal"] > 0
    assert outcomes["refused by the reader"] > 0


def _in_child(target: object, *arguments: int) -> tuple[list[int], float, int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *arguments))  # type: ignore[arg-type]
    child.start()
    theirs.close()
    try:
        result: tuple[list[int], float, int] = ours.recv()
    finally:
        child.join(10)
    assert child.exitcode == 0
    return result


def _outcomes(numbers: list[int]) -> dict[int, str]:
    """What became of each mutant; a child that dies is replaced, and its mutant counted as a crash of the runtime."""
    outcomes: dict[int, str] = {}
    context = multiprocessing.get_context("spawn")
    left = list(numbers)
    while left:
        ours, theirs = context.Pipe()
        child = context.Process(target=_run_all, args=(theirs, left))
        child.start()
        theirs.close()
        try:
            while ours.poll(60.0):
                number, outcome = ours.recv()
                outcomes[number] = outcome
        except EOFError:
            pass
        child.kill()
        child.join(10)
        outcomes |= {n: "runtime crashed" for n, outcome in outcomes.items() if outcome == "begun"}
        left = [n for n in left if n not in outcomes]
    return outcomes
