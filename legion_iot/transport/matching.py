"""Topic names, topic filters and which of them fit together (MQTT 5.0, section 4.7)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from legion_iot.errors import BrokerError

MAX_TOPIC_BYTES = 65_535
# A filter's depth is the depth of the tree below; topics of this project have six levels.
MAX_LEVELS = 64

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def is_topic_name(topic: str) -> bool:
    """Whether a message may be published there: not empty, no wildcard, no NUL, and not too long or deep."""
    return _is_text(topic) and "+" not in topic and "#" not in topic


def is_topic_filter(pattern: str) -> bool:
    """Whether it may be subscribed to: `+` stands for a whole level, `#` for the last ones."""
    if not _is_text(pattern):
        return False
    levels = pattern.split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            return False
        if "+" in level and level != "+":
            return False
    return True


def matches(pattern: str, topic: str) -> bool:
    """Whether a message on `topic` goes to a subscription of `pattern`; both must be valid.

    A leading wildcard does not match a topic that begins with `$` (MQTT-4.7.2-1).
    """
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index == len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def check_message(topic: str, qos: int) -> None:
    """Raise `BrokerError` unless a message may be published there at that QoS."""
    if not is_topic_name(topic) or qos not in (0, 1):
        raise BrokerError(f"cannot publish on {topic!r} at QoS {qos}: correct the topic, or use QoS 0 or 1")


def check_filters(filters: Iterable[tuple[str, int]]) -> None:
    """Raise `BrokerError` unless each filter may be subscribed to at its QoS."""
    for pattern, qos in filters:
        if not is_topic_filter(pattern) or qos not in (0, 1):
            raise BrokerError(f"cannot subscribe to {pattern!r} at QoS {qos}: correct it, or use QoS 0 or 1")


def _is_text(text: str) -> bool:
    if not text or "\0" in text or text.count("/") >= MAX_LEVELS:
        return False
    try:
        return len(text.encode()) <= MAX_TOPIC_BYTES
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return False


class _Node(Generic[K, V]):
    __slots__ = ("children", "entries")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.entries: dict[K, V] = {}


class FilterTree(Generic[K, V]):
    """Subscriptions by filter level, so that routing costs the depth of a topic and not the number of filters."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()

    def put(self, pattern: str, key: K, value: V) -> bool:
        """Set the value of (filter, key); returns whether it is new."""
        node = self._root
        for level in pattern.split("/"):
            node = node.children.setdefault(level, _Node())
        new = key not in node.entries
        node.entries[key] = value
        return new

    def remove(self, pattern: str, key: K) -> bool:
        """Forget (filter, key) and the branches that are empty then; returns whether it was there."""
        path: list[tuple[_Node[K, V], str]] = []
        node = self._root
        for level in pattern.split("/"):
            child = node.children.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        if node.entries.pop(key, None) is None:
            return False
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.entries or child.children:
                break
            del parent.children[level]
        return True

    def match(self, topic: str) -> Iterator[tuple[K, V]]:
        """Every (key, value) whose filter matches; a key comes once per filter of its own that does."""
        levels = topic.split("/")
        stack: list[tuple[_Node[K, V], int]] = [(self._root, 0)]
        while stack:
            node, index = stack.pop()
            wild = index > 0 or not topic.startswith("$")
            if wild and (rest := node.children.get("#")) is not None:
                yield from rest.entries.items()
            if index == len(levels):
                yield from node.entries.items()
                continue
            if wild and (any_level := node.children.get("+")) is not None:
                stack.append((any_level, index + 1))
            if (child := node.children.get(levels[index])) is not None:
                stack.append((child, index + 1))
