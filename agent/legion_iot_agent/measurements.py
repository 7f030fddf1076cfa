"""What this device has found out about itself: kept on disk, published, and added to on command.

The samples and the link outlive the agent, the broker and the orchestrator. A link holds for the broker it was measured
with; samples hold for the class of board that the device says it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from legion_iot.planning.links import Link
from legion_iot.profiles import ProfileFile
from legion_iot.transport.link import LinkProber
from legion_iot.wire.messages import Command, Measured
from legion_iot_agent.profiler import Profiler

MOST_PROBES = 3  # tries, each ended by something else on its way
MOST_COMMANDS = 4  # to probe that wait; the oldest gives way


class Measurements:
    """Carries out commands to profile and to probe, a little in each turn; `answer` is told what came out.

    `prober` makes what finds out about the link, for one try.
    """

    def __init__(
        self,
        file: ProfileFile,
        profiler: Profiler,
        prober: Callable[[], LinkProber],
        answer: Callable[[Measured], None],
    ) -> None:
        self.file = file
        self._profiler = profiler
        self._new_prober = prober
        self._answer = answer
        self._prober: LinkProber | None = None
        self._probes: deque[Command] = deque(maxlen=MOST_COMMANDS)
        self._tries = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._probes) or self._profiler.busy

    @property
    def waits(self) -> bool:
        """Whether the next thing to do is to wait for what is under way."""
        return self._prober is not None and self._prober.waits

    def profile(self, model: Path, command: Command, board: str) -> None:
        """Measure the command's parts of a model in the turns to come."""
        self._profiler.start(model, command, board)

    def probe(self, command: Command) -> None:
        """Measure the link in the turns to come."""
        self._probes.append(command)

    def stop(self) -> None:
        """Forget all commands."""
        self._probes.clear()
        self._prober = None
        self._profiler.stop()

    def forget(self) -> None:
        """Forget what has come out so far, too."""
        self.stop()
        self._tries = 0
        self.file.forget()

    def echoed(self, number: int) -> None:
        """What the prober sent to ourselves is back."""
        if self._prober is not None:
            self._prober.returned(number)

    def disturb(self) -> None:
        """Something else is under way on the link: what is being measured of it does not count."""
        self._prober = None

    def turn(self) -> None:
        """Do a little of what there is to do."""
        if self._probes:
            self._probe()
        elif (profiled := self._profiler.turn()) is not None:
            self.file.add(profiled.samples)
            self._answer(profiled.measured)

    def _probe(self) -> None:
        if self._prober is None:
            if self._tries == MOST_PROBES:
                self._end_probe(None, "its link is never idle for long enough")
                return
            self._tries += 1
            self._prober = self._new_prober()
        self._prober.turn()
        if self._prober.ended:
            self._end_probe(self._prober.result, "what it sends to itself over the broker does not come back")

    def _end_probe(self, link: Link | None, failure: str) -> None:
        command = self._probes.popleft()
        self._prober, self._tries = None, 0
        if link is not None:
            self.file.add((), link)
        self._answer(Measured(command.number, link=link, reason="" if link is not None else failure))
