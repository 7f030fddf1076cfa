"""Topic matching against a reference that tries every way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.transport.matching import FilterTree, is_topic_filter, is_topic_name, matches

LEVELS = st.sampled_from(["a", "b", "", "$s"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
PATTERNS = (
    st.builds(
        lambda levels, tail: [*levels, *tail],
        st.lists(st.one_of(LEVELS, st.just("+")), max_size=4),
        st.sampled_from([[], ["#"]]),
    )
    .map("/".join)
    .filter(bool)
)


def reference(pattern: list[str], topic: list[str], first: bool = True) -> bool:
    """Section 4.7 as a recursion over both."""
    if not pattern:
        return not topic
    hidden = first and bool(topic) and topic[0].startswith("$")
    if pattern[0] == "#":
        return not hidden
    if not topic:
        return False
    if pattern[0] == "+":
        return not hidden and reference(pattern[1:], topic[1:], False)
    return pattern[0] == topic[0] and reference(pattern[1:], topic[1:], False)


@given(PATTERNS, TOPICS)
def test_matches_follows_the_reference(pattern: str, topic: str) -> None:
    assert is_topic_filter(pattern)
    assert is_topic_name(topic)
    assert matches(pattern, topic) == reference(pattern.split("/"), topic.split("/"))


@given(st.lists(st.tuples(PATTERNS, st.integers(0, 2), st.booleans()), max_size=30), TOPICS)
def test_the_tree_follows_matches(steps: list[tuple[str, int, bool]], topic: str) -> None:
    tree: FilterTree[int, str] = FilterTree()
    held: set[tuple[str, int]] = set()
    for pattern, key, keep in steps:
        if keep:
            assert tree.put(pattern, key, pattern) == ((pattern, key) not in held)
            held.add((pattern, key))
        else:
            assert tree.remove(pattern, key) == ((pattern, key) in held)
            held.discard((pattern, key))
    assert sorted(tree.match(topic)) == sorted((key, pattern) for pattern, key in held if matches(pattern, topic))
    for pattern, key in held:
        assert tree.remove(pattern, key)
    assert not tree._root.children, "an empty tree keeps no branches"


@given(st.text(max_size=20))
def test_any_text_is_judged_without_failing(text: str) -> None:
    if is_topic_name(text):
        assert is_topic_filter(text)
        assert matches(text, text)


def test_depth_and_length_are_bounded() -> None:
    assert not is_topic_name("/" * 64)
    assert is_topic_name("/" * 63)
    assert not is_topic_name("x" * 65_536)
