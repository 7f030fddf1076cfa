"""Units, cut points, and where the splittable trunk ends and the whole-run tail begins.

- The *trunk* is the largest set of ops that can be tiled and depend only on each other and on the network's inputs.
- The *tail* is everything else; one device runs it whole.
- *Constant ops* depend on no input (float16 weights behind a DEQUANTIZE); each sub-model that needs one has a copy.
- A *unit* is the smallest run of trunk ops worth assigning. The cut after a unit costs the bytes of its *live
  tensors*: feature maps made before the cut and read after it.

A unit does not end inside a short branch (a residual block, an inception module): there, one tensor more is live than
at the branch's ends, so such a cut is never the cheaper one. A skip that reaches far (an encoder-decoder network) does
not stop cuts: it stays where it was made until it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.errors import ModelError
from legion_iot.model.arithmetic import op_flops
from legion_iot.model.geometry import HEIGHT, Region
from legion_iot.model.graph import Graph, Op
from legion_iot.model.locality import CHANNELWISE, UNARY, NotLocalError, OpGeometry, op_geometry

# A branch is short when it ends within this many ops: ResNet's and MobileNet's have up to 5, inception's about 8.
BRANCH_OPS = 10

# These change values in place of the op before them, or prepare the op after: a cut beside them costs the same bytes.
_JOINED_TO_PREVIOUS = UNARY | CHANNELWISE
_JOINED_TO_NEXT = frozenset({"PAD", "PADV2", "MIRROR_PAD"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive trunk ops; `live` are the tensors that a cut after this unit would have to move.

    `reference` is the feature map in whose rows and columns tile bounds are given.
    """

    index: int
    ops: tuple[int, ...]
    reference: int
    live: tuple[int, ...]
    live_bytes: int
    flops: int


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A graph, divided: units of the trunk, ops of the tail, constant ops, and why the trunk ended."""

    graph: Graph
    units: tuple[Unit, ...]
    tail: tuple[int, ...]
    constant_ops: tuple[int, ...]
    constants: frozenset[int]
    geometries: dict[int, OpGeometry]
    readers: dict[int, tuple[int, ...]]  # tensor → the ops that read it
    ended_by: str

    def block_ops(self, first: int, last: int) -> tuple[int, ...]:
        """The ops of the block made of units `first` to `last`, both included, in execution order."""
        return tuple(op for unit in self.units[first : last + 1] for op in unit.ops)

    def reads(self, ops: tuple[int, ...]) -> tuple[int, ...]:
        """Feature maps that `ops` read but do not make, in order of first use."""
        made = {tensor for op in ops for tensor in self.graph.ops[op].outputs}
        read = (tensor for op in ops for tensor in self.graph.ops[op].inputs)
        return tuple(dict.fromkeys(t for t in read if t >= 0 and t not in made and t not in self.constants))

    def makes(self, ops: tuple[int, ...]) -> tuple[int, ...]:
        """Feature maps made by `ops` that something else reads, or that leave the network."""
        inside = set(ops)
        return tuple(
            tensor
            for op in ops
            for tensor in self.graph.ops[op].outputs
            if tensor in self.graph.outputs or not inside.issuperset(self.readers.get(tensor, ()))
        )

    @property
    def flops(self) -> int:
        """Floating point operations of the trunk, two for each multiply-add."""
        return sum(unit.flops for unit in self.units)


def divide(graph: Graph) -> Network:
    """The graph's units, tail and constant ops.

    Raises ModelError where the network cannot be run at all: an input that is no feature map of batch one is fine (then
    there is no trunk), but every output has to depend on ops that exist.
    """
    constants, constant_ops = _constants(graph)
    geometries, tail, ended_by = _trunk(graph, constants, constant_ops)
    made = set(graph.inputs) | constants | {t for op in graph.ops for t in op.outputs}
    for index in graph.outputs:
        if index in constants:
            raise ModelError(f"output {graph.tensors[index].name!r} is a constant; export the network without it")
        if index not in made:
            raise ModelError(f"output {graph.tensors[index].name!r} is never computed; export the network again")
    return Network(
        graph=graph,
        units=_units(graph, geometries),
        tail=tail,
        constant_ops=constant_ops,
        constants=constants,
        geometries=geometries,
        readers=graph.consumers(),
        ended_by=ended_by,
    )


def _constants(graph: Graph) -> tuple[frozenset[int], tuple[int, ...]]:
    constants = {i for i, tensor in enumerate(graph.tensors) if tensor.is_constant}
    constants -= set(graph.inputs)
    ops = []
    for index, op in enumerate(graph.ops):
        if op.inputs and all(i < 0 or i in constants for i in op.inputs) and not _has_state(graph, op):
            ops.append(index)
            constants.update(op.outputs)
    return frozenset(constants), tuple(ops)


def _has_state(graph: Graph, op: Op) -> bool:
    return any(graph.tensors[i].is_variable for i in op.inputs if i >= 0) or any(op.mutating_variable_inputs)


def _trunk(
    graph: Graph, constants: frozenset[int], constant_ops: tuple[int, ...]
) -> tuple[dict[int, OpGeometry], tuple[int, ...], str]:
    """Geometries of the trunk's ops, the tail's ops, and why the first op of the tail is not in the trunk."""
    available = set(graph.inputs) | constants
    geometries: dict[int, OpGeometry] = {}
    tail: list[int] = []
    ended_by = ""
    for index, op in enumerate(graph.ops):
        if index in constant_ops:
            continue
        if all(i < 0 or i in available for i in op.inputs):
            try:
                geometries[index] = op_geometry(graph, op, constants)
                available.update(op.outputs)
                continue
            except NotLocalError as reason:
                ended_by = ended_by or str(reason)
        tail.append(index)
    return geometries, tuple(tail), ended_by


def _units(graph: Graph, geometries: dict[int, OpGeometry]) -> tuple[Unit, ...]:
    trunk = list(geometries)
    position = {op: p for p, op in enumerate(trunk)}
    consumers = graph.consumers()
    # How far each tensor lives: the position of its last reader, or past the end where the tail reads it.
    last_read: dict[int, int] = {}
    for tensor in (*graph.inputs, *(t for op in trunk for t in graph.ops[op].outputs)):
        readers = consumers.get(tensor, ())
        leaves = tensor in graph.outputs or any(op not in position for op in readers)
        last_read[tensor] = len(trunk) if leaves else max((position[op] for op in readers), default=-1)
    units: list[Unit] = []
    current: list[int] = []
    made = list(graph.inputs)
    for p, index in enumerate(trunk):
        current.append(index)
        made += graph.ops[index].outputs
        made = [t for t in made if last_read[t] > p]  # what nobody reads any more is not live
        newest = graph.ops[index].outputs[0]
        if p + 1 < len(trunk) and not _is_cut(graph, trunk, p, newest, made, last_read):
            continue
        units.append(
            Unit(
                index=len(units),
                ops=tuple(current),
                reference=_reference(graph, current, made, newest),
                live=tuple(made),
                live_bytes=sum(graph.tensors[t].nbytes for t in made),
                flops=sum(
                    region_flops(graph, graph.ops[i], Region.whole(graph.tensors[graph.ops[i].outputs[0]]))
                    for i in current
                ),
            )
        )
        current = []
    return tuple(units)


def _reference(graph: Graph, ops: list[int], live: list[int], newest: int) -> int:
    """The tallest live map of those the unit makes: bounds in its rows can be kept by all smaller ones."""
    made = [tensor for op in ops for tensor in graph.ops[op].outputs if tensor in live]
    return max(made, key=lambda tensor: (graph.tensors[tensor].shape[HEIGHT], tensor == newest), default=newest)


def _is_cut(graph: Graph, trunk: list[int], p: int, newest: int, live: list[int], last_read: dict[int, int]) -> bool:
    """Whether a unit may end after position `p` of the trunk; see the module's text."""
    following = graph.ops[trunk[p + 1]]
    if graph.ops[trunk[p]].kind in _JOINED_TO_NEXT:
        return False
    if following.kind in _JOINED_TO_PREVIOUS and newest in following.inputs:
        return False
    if newest not in live:
        return False
    return not any(tensor != newest and last_read[tensor] <= p + BRANCH_OPS for tensor in live)


def region_flops(graph: Graph, op: Op, region: Region) -> int:
    """Floating point operations to compute `region` of the op's first output."""
    return op_flops(graph, op, region.area * graph.tensors[op.outputs[0]].shape[-1])
