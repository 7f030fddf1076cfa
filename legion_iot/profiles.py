"""What was measured, kept in a file: by an agent of itself, by the orchestrator of all agents it has met.

Samples hold for a class of board, a link for the broker it was measured with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from legion_iot.errors import ProtocolError
from legion_iot.files import replace_file
from legion_iot.planning import samples as sample_store
from legion_iot.planning.links import Link, bounded
from legion_iot.planning.samples import Sample, Samples
from legion_iot.wire import codec
from legion_iot.wire.messages import Profile

_NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading another form raises
MEASUREMENTS = "measurements.json"  # the orchestrator's, in its state directory
MOST_BYTES = 1 << 20  # of a published profile; the oldest samples are left out beyond it


class ProfileFile:
    """Samples, and a link to one broker, in a file that is replaced in one go; without a path, only remembered.

    What cannot be read, or was written by another version, is measured anew.
    """

    def __init__(self, path: Path | None, broker: str) -> None:
        self._path, self._broker = path, broker
        self.samples = Samples()
        self.link: Link | None = None
        self.measured = 0  # when anything was, by an agent of itself; in seconds since 1970, 0 is unknown
        if path is None:
            return
        with contextlib.suppress(OSError, ProtocolError, *_NOT_OURS):
            content = json.loads(path.read_bytes())
            self.samples = sample_store.from_json(content["samples"])
            self.link = _link(content["links"].get(broker))
            self.measured = max(0, int(content.get("measured", 0)))

    def add(self, samples: Iterable[Sample], link: Link | None = None) -> None:
        """Keep these, too, which have just been measured."""
        self.measured = int(time.time())
        self.keep(self.samples.add(samples), link)

    def keep(self, samples: Samples, link: Link | None) -> None:
        """Keep these samples instead; a disk that refuses them keeps the older ones."""
        self.samples, self.link = samples, link or self.link
        if self._path is None:
            return
        links = {} if self.link is None else {self._broker: dataclasses.asdict(self.link)}
        told = {"samples": self.samples.to_json(), "links": links, "measured": self.measured}
        content = json.dumps(told, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, content)

    def forget(self) -> None:
        """Keep nothing of what was measured."""
        self.link, self.measured = None, 0
        self.keep(Samples(), None)

    def profile(self, board: str) -> Profile:
        """What is published: the samples of this class of board, the newest as far as there is room."""
        own = tuple(sample for sample in self.samples if sample.board == board)
        while own and len(codec.to_json(Profile(board, self.link, own))) > MOST_BYTES:
            own = own[len(own) // 4 + 1 :]
        return Profile(board, self.link, own, self.measured)


def _link(content: Any) -> Link | None:
    if content is None:
        return None
    handling = (float(content.get(name, 0.0)) for name in ("message_seconds", "byte_seconds"))
    return bounded(Link(float(content["latency"]), float(content["up"]), float(content["down"]), *handling))
