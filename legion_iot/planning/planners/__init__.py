"""The planners, one file each, and all of them by name; every one yields a `Plan`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from legion_iot.planning.planners.aofl import aofl
from legion_iot.planning.planners.auto import auto
from legion_iot.planning.planners.deepthings import deepthings
from legion_iot.planning.planners.frames import frames
from legion_iot.planning.planners.fss import fss
from legion_iot.planning.planners.halo import halo
from legion_iot.planning.planners.layerwise import layerwise
from legion_iot.planning.planners.legion import legion
from legion_iot.planning.planners.single import single
from legion_iot.planning.problem import Planner

planners: Mapping[str, Planner] = MappingProxyType(
    {
        "auto": auto,
        "halo": halo,
        "single": single,
        "frames": frames,
        "layerwise": layerwise,
        "deepthings": deepthings,
        "aofl": aofl,
        "legion": legion,
        "fss": fss,
    }
)
