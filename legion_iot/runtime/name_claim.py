"""Whose a name is where two have the same one: whoever announced it last.

Theory. Every agent retains its state on `agents/<name>/state`, under the session number of its process, and listens
there; orchestrators do so on `orchestrator/state`. The broker puts all messages on one topic into one order, which
everybody sees: of two sessions, the one whose announcement comes later has the name, and the other one, which sees that
announcement after its own, ends. Not the older one wins, since an agent that was killed, or whose device lost power,
must have its name back at once, long before the broker misses the old one; and nobody can tell such an agent from a
second one. What is retained decides nothing: a broker that came back may retain what a process that is long gone had
said.

| event                                                           | effect                                    |
|-----------------------------------------------------------------|-------------------------------------------|
| connected, for the first time or again                          | announce                                  |
| a foreign announcement after all of our own have come back      | the name is lost                          |
| a foreign announcement before that, or one that was retained    | none: it is older than ours               |
| a foreign `offline` after that: the will of an older connection | announce again: ours is retained no more  |

Client ids hold the session number, so that nobody pushes anybody's link out: brokers do that without saying why
(Mosquitto 2.0.11), and both would come back for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Next(Enum):
    """What to do now."""

    NOTHING = 0
    ANNOUNCE = 1
    GIVE_UP = 2


@dataclass(slots=True)
class NameClaim:
    """One session's claim to its name. Whoever announces calls `announced`, and may only while it is `held`."""

    session: str
    held: bool = False
    _under_way: int = 0  # announcements that have not come back

    def connected(self) -> Next:
        """The connection is up, for the first time or again."""
        self.held, self._under_way = True, 0
        return Next.ANNOUNCE

    def disconnected(self) -> None:
        """The connection is down: somebody else may take the name meanwhile."""
        self.held = False

    def announced(self) -> None:
        """Our state was published."""
        self._under_way += 1

    def seen(self, session: str, present: bool, retained: bool) -> Next:
        """A session said on the name's topic that it is present, or offline."""
        if retained or not self.held:
            return Next.NOTHING
        if session == self.session:
            self._under_way = max(0, self._under_way - 1)
            return Next.NOTHING
        if self._under_way:
            return Next.NOTHING
        if not present:
            return Next.ANNOUNCE
        self.held = False
        return Next.GIVE_UP
