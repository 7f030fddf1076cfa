"""Every message, drawn at random, built from the fields' types and not by the codec."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from legion_iot.wire import bridge, group, messages, retained
from legion_iot.wire.dtypes import WIRES

MESSAGES: list[type[Any]] = [
    kind
    for module in (messages, retained, bridge, group)
    for kind in vars(module).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
]

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "ModelReference.sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
    "ModelReference.size": st.integers(1, messages.MAX_MODEL),
    "Assignment.wire": st.sampled_from(WIRES),
    "PeerRegion.peer": st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
}


def any_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of this class."""
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        name = f"{kind.__name__}.{field.name}"
        fields[field.name] = _SPECIAL[name] if name in _SPECIAL else _any(hints[field.name])
    return st.builds(kind, **fields)


def _any(kind: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return any_of(kind)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if arguments[1:] == (Ellipsis,):
            return st.lists(_any(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*(_any(a) for a in arguments))
    if isinstance(kind, types.UnionType):
        return st.one_of(*(_any(a) for a in arguments))
    scalars: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        int: lambda: _INTEGERS,
        float: lambda: st.floats(allow_nan=False, allow_infinity=False),
        str: lambda: _TEXT,
        bool: st.booleans,
        type(None): st.none,
    }
    return scalars[kind]()
