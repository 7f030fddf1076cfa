"""The simulation finds what it is made to find: faults happen, broken machines are caught, and a seed is a run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from legion_iot.runtime import agent, orchestrator
from legion_iot.runtime.simulation.faults import KINDS
from legion_iot.runtime.simulation.orchestrator_process import OrchestratorStep
from legion_iot.runtime.simulation.run import FAULTS_OF_A_RUN, Outcome, Setting, simulate

SEEDS = int(os.environ.get("LEGION_SEEDS", "18"))  # a nightly run sets 10000
PART = 500  # seeds in one test, so that each has a deadline of its own


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_no_invariant_is_broken(first: int) -> None:
    for seed in range(first, min(first + PART, SEEDS)):
        setting = Setting(1 + seed % 6, 40, tuple(KINDS))
        outcome = simulate(seed, setting)
        assert not outcome.broken, f"seed {seed}, {setting.agents} agents: {outcome.broken}: {outcome.detail}"
        assert outcome.answered + sum(outcome.failed.values()) == outcome.requests
        assert outcome.lost == outcome.wrong == 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_happens(kind: str) -> None:
    setting = Setting(3, 20, (kind,))
    outcome, without = simulate(5, setting), simulate(5, dataclasses.replace(setting, kinds=()))
    assert not outcome.broken, outcome.detail
    assert outcome.faults[kind] >= FAULTS_OF_A_RUN
    assert outcome.digest != without.digest, "it changed nothing"


def test_without_faults_every_request_is_answered() -> None:
    for seed in range(4):
        outcome = simulate(seed, Setting(4, 30, ()))
        assert not outcome.broken, outcome.detail
        assert outcome.answered == outcome.requests


def test_a_large_group() -> None:
    outcome = simulate(1, Setting(60, 20, ("crash", "cut")))
    assert not outcome.broken, outcome.detail


def test_a_seed_is_a_run() -> None:
    """Also in another process, where sets of texts have another order."""
    program = (
        "from legion_iot.runtime.simulation.run import Setting, simulate\n"
        "from legion_iot.runtime.simulation.faults import KINDS\n"
        "print(simulate(7, Setting(4, 20, tuple(KINDS))))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True, text=True, timeout=100, check=True,
        ).stdout
        for number in ("1", "2")
    }  # fmt: skip
    assert told == {f"{simulate(7, Setting(4, 20, tuple(KINDS)))}\n"}
    assert simulate(7, Setting(4, 20, tuple(KINDS))).digest != simulate(8, Setting(4, 20, tuple(KINDS))).digest


# --- machines that are broken on purpose ---


def of_orchestrator(change: Callable[[list[orchestrator.Effect], int], list[orchestrator.Effect]]) -> OrchestratorStep:
    """The machine, with its effects changed; `change` is told how many requests had ended before."""
    ended = 0

    def step(state: orchestrator.State, event: orchestrator.Event, now: float) -> list[orchestrator.Effect]:
        nonlocal ended
        effects = orchestrator.step(state, event, now)
        changed = change(effects, ended)
        ended += sum(isinstance(effect, orchestrator.RequestEnded) for effect in effects)
        return changed

    return step


def ends(effects: list[orchestrator.Effect]) -> list[orchestrator.RequestEnded]:
    return [effect for effect in effects if isinstance(effect, orchestrator.RequestEnded)]


def run_broken(step: OrchestratorStep) -> Outcome:
    return simulate(3, Setting(3, 20, ()), orchestrator_step=step)


def test_a_machine_that_answers_twice_is_caught() -> None:
    outcome = run_broken(of_orchestrator(lambda effects, ended: [*effects, *(ends(effects) if ended == 5 else [])]))
    assert outcome.broken == "ends-once"
    assert "twice" in outcome.detail


def test_a_machine_that_forgets_a_request_is_caught() -> None:
    outcome = run_broken(
        of_orchestrator(lambda effects, ended: [e for e in effects if ended != 5 or e not in ends(effects)])
    )
    assert outcome.broken == "ends-once"
    assert "lost" in outcome.detail
    assert outcome.lost == 1


def test_a_machine_that_answers_wrongly_is_caught() -> None:
    def change(effects: list[orchestrator.Effect], ended: int) -> list[orchestrator.Effect]:
        return [
            dataclasses.replace(e, outputs=tuple(np.roll(o, 1) for o in e.outputs))
            if isinstance(e, orchestrator.RequestEnded) and ended == 5
            else e
            for e in effects
        ]

    outcome = run_broken(of_orchestrator(change))
    assert outcome.broken == "right-answer"
    assert outcome.wrong == 1


def test_a_machine_that_leaves_assignments_behind_is_caught() -> None:
    def change(effects: list[orchestrator.Effect], ended: int) -> list[orchestrator.Effect]:
        return [effect for effect in effects if not isinstance(effect, orchestrator.ClearAssignment)]

    assert run_broken(of_orchestrator(change)).broken == "no-orphans"


def test_a_machine_that_never_gives_up_is_caught() -> None:
    """Nobody computes, and the orchestrator does not look at the clock."""

    def deaf(state: orchestrator.State, event: orchestrator.Event, now: float) -> list[orchestrator.Effect]:
        is_late = isinstance(event, orchestrator.Tick) and bool(state.requests.under_way)
        return [] if is_late else orchestrator.step(state, event, now)

    def idle(state: agent.State, event: agent.Event, now: float) -> list[agent.Effect]:
        return [e for e in agent.step(state, event, now) if not isinstance(e, agent.SendRegion)]

    outcome = simulate(3, Setting(2, 5, ()), orchestrator_step=deaf, agent_step=idle)
    assert outcome.broken == "ends-in-time"
    assert outcome.lost >= 1


def test_an_agent_that_takes_fragments_of_another_attempt_is_caught() -> None:
    def careless(state: agent.State, event: agent.Event, now: float) -> list[agent.Effect]:
        if isinstance(event, agent.StepDone) and event.step == 0:
            event = dataclasses.replace(event, attempt=event.attempt + 1)
        return agent.step(state, event, now)

    outcome = simulate(3, Setting(3, 20, ()), agent_step=careless)
    assert outcome.broken in {"right-inputs", "right-answer"}


def test_an_agent_that_computes_twice_is_caught() -> None:
    def eager(state: agent.State, event: agent.Event, now: float) -> list[agent.Effect]:
        return [e for effect in agent.step(state, event, now) for e in (effect, effect)]

    assert simulate(3, Setting(3, 20, ()), agent_step=eager).broken == "computed-once"


def test_a_machine_that_raises_is_caught() -> None:
    def fragile(state: agent.State, event: agent.Event, now: float) -> list[agent.Effect]:
        if isinstance(event, agent.FragmentArrived):
            raise KeyError("nobody thought of this")
        return agent.step(state, event, now)

    outcome = simulate(3, Setting(3, 20, ()), agent_step=fragile)
    assert outcome.broken == "no-exception"
    assert "nobody thought of this" in outcome.detail
    assert "test_simulation.py" in outcome.detail
