"""What is done to a group, each as `with strike(group) as since:`, where `since` is when it could recover from then on.

Leaving the block ends what lasts and brings back who is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from legion_iot.bench.faults.group import GUEST, Group
from legion_iot.bench.faults.impostor import Impostor, Kind
from legion_iot.errors import AgentError
from legion_iot.interruption import temporary_directory
from legion_iot_broker.mosquitto import find_mosquitto

MID_INFERENCE = 0.06  # seconds after a request was sent, in which agents have begun with it
GONE, STOPPED = 1.0, 5.0  # seconds
DELAY = 0.5  # seconds one way
OVERLOAD = 10
NOTICED_TIMEOUT = 60.0  # seconds
TMPFS = "128k"  # less than the model

Strike = Callable[[Group], AbstractContextManager[float]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`seconds` it lasts at least. With `mqtt_repeats`, MQTT may deliver what it delivers at least once several times;
    where `ends_reopened`, requests that were answered may be answered again.
    """

    name: str
    strike: Strike
    seconds: float = 1.0
    mqtt_repeats: bool = False
    ends_reopened: bool = False
    persistent: bool = False  # with a broker that keeps what it retains
    quick: bool = True
    needs: Callable[[], str] = lambda: ""  # why it cannot be done here


@contextlib.contextmanager
def _kill_agent(group: Group) -> Iterator[float]:
    """While it computes; it comes back once the group has gone on without it."""
    group.client.ask()
    time.sleep(MID_INFERENCE)
    group.agents["bee"].kill()
    yield time.monotonic()
    group.agents["bee"].start()


@contextlib.contextmanager
def _kill_all_agents(group: Group) -> Iterator[float]:
    group.client.ask()
    time.sleep(MID_INFERENCE)
    for agent in group.agents.values():
        agent.kill()
    time.sleep(GONE)
    for agent in group.agents.values():
        agent.start()
    yield time.monotonic()


@contextlib.contextmanager
def _stop_agent(group: Group) -> Iterator[float]:
    group.client.ask()
    time.sleep(MID_INFERENCE)
    group.agents["bee"].signal(signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        group.agents["bee"].signal(signal.SIGCONT)


@contextlib.contextmanager
def _kill_broker(group: Group, seconds: float) -> Iterator[float]:
    group.broker.kill()
    time.sleep(seconds)
    group.broker.start()
    yield time.monotonic()


@contextlib.contextmanager
def _kill_orchestrator(group: Group) -> Iterator[float]:
    group.client.ask()
    time.sleep(MID_INFERENCE)
    group.orchestrator.kill()
    group.orchestrator.start()
    yield time.monotonic()


@contextlib.contextmanager
def _stop_orchestrator(group: Group) -> Iterator[float]:
    """For longer than a tile may take: nobody else is to blame."""
    group.orchestrator.signal(signal.SIGSTOP)
    try:
        time.sleep(STOPPED)
    finally:
        group.orchestrator.signal(signal.SIGCONT)
    yield time.monotonic()


@contextlib.contextmanager
def _kill_both(group: Group) -> Iterator[float]:
    """The orchestrator and the broker, as when the machine that both run on is switched off and on."""
    group.client.ask()
    time.sleep(MID_INFERENCE)
    group.orchestrator.kill()
    group.broker.kill()
    time.sleep(GONE)
    group.broker.start()
    group.orchestrator.start()
    yield time.monotonic()


@contextlib.contextmanager
def _cut(group: Group) -> Iterator[float]:
    group.proxy.change(group.port, cut=True)
    try:
        yield time.monotonic()
    finally:
        group.proxy.change(group.port, cut=False)


@contextlib.contextmanager
def _delay(group: Group) -> Iterator[float]:
    group.proxy.change(group.port, delay=DELAY)
    try:
        yield time.monotonic()
    finally:
        group.proxy.change(group.port, delay=0.0)


@contextlib.contextmanager
def _repeat(group: Group, kind: Kind) -> Iterator[float]:
    with Impostor(group.broker.address, group.topics, group.work, "bee", kind) as impostor:
        yield time.monotonic()
        _require(impostor)


@contextlib.contextmanager
def _poison(group: Group, kind: Kind) -> Iterator[float]:
    """Until the agent in whose name it is done is left out; then that one is started anew."""
    with Impostor(group.broker.address, group.topics, group.work, "bee", kind) as impostor:
        begun = time.monotonic()
        others = set(group.agents) - {"bee"}
        if not group.client.wait_for(lambda: group.serves(others), NOTICED_TIMEOUT):
            raise AgentError(
                f"nobody was left out within {NOTICED_TIMEOUT:g} s for what is said in bee's name ({kind})"
            )
        _require(impostor)
        yield begun
    group.agents["bee"].end()
    group.agents["bee"].start()


def _require(impostor: Impostor) -> None:
    if not impostor.sent:
        raise AgentError("the bad participant found nothing to say; run the bench again")


@contextlib.contextmanager
def _overload(group: Group) -> Iterator[float]:
    rate = group.client.rate
    group.client.rate = OVERLOAD * rate
    try:
        yield time.monotonic()
    finally:
        group.client.rate = rate


@contextlib.contextmanager
def _damage_model(group: Group) -> Iterator[float]:
    """A bit of the file that an agent holds flips while the agent is not running."""
    agent = group.agents["bee"]
    agent.end()
    (held,) = (group.directory / "bee" / "models").glob("*.tflite")
    content = bytearray(held.read_bytes())
    content[len(content) // 2] ^= 1
    held.write_bytes(content)
    agent.start()
    yield time.monotonic()


@contextlib.contextmanager
def _fill_disk(group: Group) -> Iterator[float]:
    """One more agent comes, whose disk is too small for the model; until the group has left it out."""
    place = group.directory / GUEST
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(place)], check=True)
    guest = group.new_agent(GUEST, place)
    try:
        guest.start()
        begun = time.monotonic()

        def left_out() -> bool:
            return group.client.state is not None and f"{GUEST} left out" in group.client.state.detail

        if not group.client.wait_for(left_out, NOTICED_TIMEOUT):
            raise AgentError(f"an agent without room for the model was not left out within {NOTICED_TIMEOUT:g} s")
        yield begun
    finally:
        guest.end()
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def _no_sessions() -> str:
    return "" if find_mosquitto() else "the embedded broker keeps nothing for whoever is away; install mosquitto"


def _no_mount() -> str:
    """Tried, since root of a container may not."""
    if os.geteuid() or not shutil.which("mount"):
        return "a small file system can be mounted by root only"
    with temporary_directory("legion-faults-") as place:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
        if tried.returncode:
            return "no file system may be mounted here"
        subprocess.run(["umount", str(place)], check=True)
    return ""


FAULTS = (
    Fault("kill-agent", _kill_agent),
    Fault("stop-agent", _stop_agent),
    Fault("kill-orchestrator", _kill_orchestrator, mqtt_repeats=True, ends_reopened=True, needs=_no_sessions),
    Fault("kill-all-agents", _kill_all_agents, quick=False),
    Fault("stop-orchestrator", _stop_orchestrator, quick=False),
    Fault("kill-orchestrator-and-broker", _kill_both, mqtt_repeats=True, ends_reopened=True, quick=False),
    Fault("cut-link", _cut, seconds=6.0, quick=False),
    Fault("cut-link-long", _cut, seconds=25.0, quick=False),
    Fault("delay", _delay, seconds=4.0, quick=False),
    Fault("duplicates", partial(_repeat, kind="duplicate"), quick=False),
    Fault("late-fragments", partial(_repeat, kind="late"), seconds=3.0, quick=False),
    Fault("poison-nan", partial(_poison, kind="nan")),
    Fault("poison-malformed", partial(_poison, kind="malformed"), quick=False),
    Fault("overload", _overload, seconds=3.0),
    Fault("damaged-model", _damage_model, quick=False),
    Fault("full-disk", _fill_disk, quick=False, needs=_no_mount),
    Fault("kill-broker-1s", partial(_kill_broker, seconds=1.0), mqtt_repeats=True),
    Fault("kill-broker-30s", partial(_kill_broker, seconds=30.0), mqtt_repeats=True, quick=False),
    *(
        Fault(
            f"kill-broker-{seconds:g}s-kept", partial(_kill_broker, seconds=seconds), mqtt_repeats=True,
            persistent=True, quick=False, needs=_no_sessions,
        )
        for seconds in (1.0, 30.0)
    ),
)  # fmt: skip
