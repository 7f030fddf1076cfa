"""Networks by name, ready to run: seeded ones built here, trained ones taken out of pinned wheels."""

from __future__ import annotations

from legion_iot.zoo.catalogue import ZooEntry, catalogue
from legion_iot.zoo.download import Progress
from legion_iot.zoo.store import ZooModel, cache_directory, demo_picture, find, get

__all__ = ["Progress", "ZooEntry", "ZooModel", "cache_directory", "catalogue", "demo_picture", "find", "get"]
