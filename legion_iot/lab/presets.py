"""Labs by name: the groups of the paper, and a shelf of Raspberry Pis.

F is a Firefly-RK3399 and O an Odroid-XU4, all on 100 Mbit/s Ethernet, as in Choi et al., ICCD 2021.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from legion_iot.errors import UsageError
from legion_iot.lab.spec import BOARDS, Device, LabSpec, read_spec
from legion_iot.toml_tables import numbered, suggestion

MOST = 6  # devices of a group of the paper


def presets() -> dict[str, LabSpec]:
    """Every lab there is, by name: `legion-<n>f`, `legion-<n>o`, `legion-<n>f<m>o` and `pi-mixed`."""
    labs: dict[str, LabSpec] = {}
    for fireflies in range(MOST + 1):
        for odroids in range(MOST + 1 - fireflies):
            if devices := _several("rk3399", fireflies) + _several("xu4", odroids):
                counts = ((fireflies, "f"), (odroids, "o"))
                name = "legion-" + "".join(f"{count}{letter}" for count, letter in counts if count)
                labs[name] = LabSpec(name, devices)
    pis = ("pi-5", "pi-4", "pi-3", "pi-zero-2")
    labs["pi-mixed"] = LabSpec("pi-mixed", tuple(replace(BOARDS[board], name=board) for board in pis))
    return labs


def _several(board: str, count: int) -> tuple[Device, ...]:
    base = BOARDS[board]
    names = [f"{base.name}1"] if count == 1 else numbered(base.name, count)
    return tuple(replace(base, name=name) for name in names[:count])


def find_preset(name: str) -> LabSpec:
    """A lab by name; raises UsageError with what may have been meant."""
    labs = presets()
    if name not in labs:
        raise UsageError(f"no lab is called {name!r:.60}: {suggestion(name, labs)}")
    return labs[name]


def find_lab(wanted: str) -> LabSpec:
    """A preset by name, or the specification in a `.toml` file; raises UsageError or InputError."""
    return read_spec(Path(wanted)) if wanted.endswith(".toml") or "/" in wanted else find_preset(wanted)
