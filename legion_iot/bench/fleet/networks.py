"""Networks by name: those of the zoo, and relatives of its VGGs and ResNets of another depth or image size.

`vgg13` is a VGG of another depth, `vgg16-96px` VGG-16 for images of 96×96. Their weights are drawn, as the zoo's are.
`vgg16-int8` is VGG-16 quantised; of every VGG and ResNet there is such a one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from legion_iot import zoo
from legion_iot.bench.fleet import quantised
from legion_iot.errors import UsageError
from legion_iot.model import tflite
from legion_iot.model.graph import Graph
from legion_iot.model.synthetic import RESNET_STAGES, SIZE, VGG_STAGES, resnet, vgg

LEAST_SIZE, MOST_SIZE = 32, 1024
SEED = 0
SIZES = (96, 160, SIZE, 320, 448)
INT8 = "-int8"
_NAME = re.compile(r"([a-z]+\d+)(?:-(\d+)px)?")
_FAMILIES: Mapping[str, Mapping[str, Callable[..., Graph]]] = MappingProxyType(
    {
        "vgg": {name: partial(vgg, convolutions=stages, seed=SEED) for name, stages in VGG_STAGES.items()},
        "resnet": {name: partial(resnet, blocks=stages, seed=SEED) for name, stages in RESNET_STAGES.items()},
    }
)
_BUILDERS = {name: build for family in _FAMILIES.values() for name, build in family.items()}


def check(name: str) -> None:
    """Raises UsageError for a name of no network, or of one that cannot be made with what is installed."""
    base = float_of(name)
    if _relative(base) is None:
        zoo.find(base)
    if is_integer(name):
        if _built(base) is None:
            raise UsageError(f"{name}: only VGGs and ResNets are quantised; measure {base} (--networks)")
        quantised.require(name)


def is_integer(name: str) -> bool:
    """Whether all maps of the network are int8, which travel as they are."""
    return name.endswith(INT8)


def float_of(name: str) -> str:
    """The float32 network that an integer one was made of; any other is its own."""
    return name.removesuffix(INT8)


def path_of(name: str, directory: Path, progress: Callable[[str, float | None], None]) -> Path:
    """The network's file: the zoo's, or one made in the directory; raises LegionError."""
    if is_integer(name):
        path = directory / f"{name}.tflite"
        if not path.exists():
            source = path_of(float_of(name), directory, progress)
            progress(f"quantising {name}", None)
            quantised.quantise(source, path)
        return path
    relative = _relative(name)
    if relative is None:
        return zoo.get(name, progress).path
    base, size = relative
    path = directory / f"{name}.tflite"
    if not path.exists():
        progress(f"making {name}", None)
        tflite.write_file(_BUILDERS[base](name, size=size), path)
    return path


def family(names: tuple[str, ...]) -> str:
    """The first of the names of which there are relatives, VGG-16 where there are of none."""
    return next((name for name in names if name in _BUILDERS), "vgg16")


def of_other_sizes(name: str) -> list[str]:
    """Relatives of a network of all image sizes, the network itself among them."""
    return [name if size == SIZE else f"{name}-{size}px" for size in SIZES]


def of_other_depths(name: str) -> list[str]:
    """A network and its relatives of other depths, the least deep first."""
    return next((list(members) for members in _FAMILIES.values() if name in members), [name])


def _relative(name: str) -> tuple[str, int] | None:
    """What `vgg16-96px` is of, and rows and columns of its images; None for what is the zoo's, or nothing."""
    built = _built(name)
    if built is None:
        return None
    size = built[1]
    if not LEAST_SIZE <= size <= MOST_SIZE or size % 32:
        raise UsageError(f"{name}: images have {LEAST_SIZE} to {MOST_SIZE} rows, by 32 (--networks)")
    is_ours = size != SIZE or name not in {entry.name for entry in zoo.catalogue()}
    return built if is_ours else None


def _built(name: str) -> tuple[str, int] | None:
    """The VGG or ResNet that a name is of, and rows and columns of its images; None for what is neither."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2] or SIZE)) if match is not None and match[1] in _BUILDERS else None
