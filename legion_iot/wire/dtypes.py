"""The dtypes in which float32 feature maps may travel, by name; `quantised` is how they do."""

from __future__ import annotations

from legion_iot.errors import ProtocolError

EXACT = "float32"
WIRES = (EXACT, "float16", "int8")  # what a plan may ask for

# The difference at the outputs, relative to the largest, that `legion demo` and `legion verify` let pass.
OUTPUT_BOUNDS = {EXACT: 0.0, "float16": 0.01, "int8": 0.1}


def check_wire(wire: str) -> str:
    """The wire dtype itself; raises ProtocolError for one that no plan may ask for."""
    if wire not in WIRES:
        raise ProtocolError(
            f"{wire!r:.40} is no wire dtype of this version ({', '.join(WIRES)}); update the older side"
        )
    return wire
