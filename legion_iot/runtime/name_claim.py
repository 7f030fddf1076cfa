"""Whose a name is where two agents have the same one: the newest's.

Theory. Every agent retains its state on `agents/<name>/state`, under the session number of its process, and listens
there. The broker puts all messages on one topic into one order, which everybody sees: of two agents, the one whose
announcement comes later has the name, and the other one, which sees that announcement after its own, ends. Not the
older one wins, since an agent that was killed, or whose device lost power, must have its name back at once, long before
the broker misses the old one; and nobody can tell such an agent from a second one.

| event                                                             | effect                                     |
|-------------------------------------------------------------------|--------------------------------------------|
| connected for the first time                                      | announce                                   |
| connected again                                                   | look: ask for what is retained once more   |
| all that was retained has come, and none of it was a foreign one  | announce                                   |
| a foreign announcement while we look                              | the name is lost                           |
| a foreign announcement after all of our own have come back        | the name is lost                           |
| a foreign announcement before that                                | none: it is older than ours                |
| a foreign `offline` after that: the will of an older link         | announce again: ours is retained no more   |

Client ids hold the session number, so that nobody pushes anybody's link out: brokers do that without saying why
(Mosquitto 2.0.11), and both would come back for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from legion_iot.wire.messages import AgentState


class Next(Enum):
    """What to do now."""

    NOTHING = 0
    ANNOUNCE = 1
    LOOK = 2
    GIVE_UP = 3


@dataclass(slots=True)
class NameClaim:
    """One session's claim to its name. Whoever announces calls `announced`, and may only while `held`."""

    session: str
    held: bool = False
    _before: bool = False  # whether it was ever held
    _looking: bool = False
    _under_way: int = 0  # announcements that have not come back

    def connected(self) -> Next:
        """The control connection is up, for the first time or again."""
        self._under_way = 0
        if self._before:
            self._looking = True
            return Next.LOOK
        return self._take()

    def disconnected(self) -> None:
        """The control connection is down: somebody else may take the name meanwhile."""
        self.held = self._looking = False

    def looked(self) -> Next:
        """All that was retained has come."""
        return self._take() if self._looking else Next.NOTHING

    def announced(self) -> None:
        """Our state was published."""
        self._under_way += 1

    def seen(self, state: AgentState, retained: bool) -> Next:
        """A message came on the name's topic."""
        if state.session == self.session:
            if not retained:
                self._under_way = max(0, self._under_way - 1)
            return Next.NOTHING
        newer = self._looking or (self.held and not self._under_way and not retained)
        if not newer:
            return Next.NOTHING
        if state.state != "offline":
            self.held = False
            return Next.GIVE_UP
        return Next.ANNOUNCE if self.held else Next.NOTHING

    def _take(self) -> Next:
        self.held, self._before, self._looking = True, True, False
        return Next.ANNOUNCE
