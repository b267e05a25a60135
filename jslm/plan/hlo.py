"""What a compiled program moves: memory traffic, matrix products and collectives, counted from its text.

XLA's own cost analysis counts the body of a loop once. Layers, micro-batches and chunks of the loss are loops here, so
each instruction is counted as often as its loops run it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator

from jslm.plan.hlo_text import Computation, Instruction, Module, Shape
from jslm.plan.kernels import is_splash, splash_bytes, splash_flops

# These name or rearrange values; no memory is read for them.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"),
        *("while", "conditional", "call", "after-all", "opt-barrier", "async-update"),
    )
)
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind and group size: how often a step runs them, and bytes a device."""

    kind: str
    group: int
    count: int
    payload_bytes: int
    wire_bytes: float


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one run of a program asks of one device: FLOPs of matrix products, bytes of main memory, instructions
    started, collectives."""

    flops: float
    bytes: float
    operations: int
    collectives: tuple[Collective, ...]


def count_traffic(module: Module, *, only_loop_of_unknown_length: bool = False) -> Traffic:
    """Counts with each loop's body times its trip count; a loop of unknown length counts once.

    `only_loop_of_unknown_length` counts the largest such body alone: one token of the decode loop. Buffers that the
    compiler placed in a TPU's on-chip memory are no traffic.
    """
    runs = dict(_runs(module))
    if only_loop_of_unknown_length:
        runs = dict(_runs(module, _unknown_body(module), 1))
    flops, moved, operations = 0.0, 0.0, 0
    found: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for name, times in runs.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            flops += times * _flops(module, computation, instruction)
            moved += times * _moved(module, computation, instruction)
            operations += times * _is_work(instruction)
            for kind, group, payload in _collectives(module, computation, instruction):
                entry = found[kind, group]
                entry[0] += times
                entry[1] += times * payload
                entry[2] += times * payload * _wire_share(kind, group)
    collectives = tuple(
        Collective(kind, group, int(count), int(payload), wire)
        for (kind, group), (count, payload, wire) in sorted(found.items(), key=lambda item: -item[1][2])
    )
    return Traffic(flops, moved, operations, collectives)


def _runs(module: Module, name: str | None = None, times: int = 1) -> Iterator[tuple[str, int]]:
    """(computation, how often it runs) for the entry and all loop bodies, branches and calls under it."""
    name = name or module.entry
    yield name, times
    for instruction in module.computations[name].instructions.values():
        if instruction.opcode == "while":
            yield from _runs(module, instruction.calls["body"], times * (trip_count(module, instruction) or 1))
        elif instruction.opcode == "conditional":
            for branch in instruction.branches:
                yield from _runs(module, branch, times)
        elif instruction.opcode == "call":
            yield from _runs(module, instruction.calls["to_apply"], times)


def _unknown_body(module: Module) -> str:
    bodies = [
        instruction.calls["body"]
        for name, _ in _runs(module)
        for instruction in module.computations[name].instructions.values()
        if instruction.opcode == "while" and trip_count(module, instruction) is None
    ]
    return max(bodies, key=lambda body: len(module.computations[body].instructions), default=module.entry)


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often a `while` runs: what the compiler noted, else from its `i < limit` and `i + step`; None where unknown.

    Loops that hide communication behind products count in steps of 2 on TPUs: their bodies hold two turns.
    """
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(noted[1])
    condition, body = (module.computations[loop.calls[name]] for name in ("condition", "body"))
    compared = _through_fusion(module, condition, condition.root)
    if compared is None or condition.root.opcode not in ("compare", "fusion"):
        return None
    root, (counter, limit) = compared
    if root.opcode != "compare" or "direction=LT" not in root.attributes or limit is None or counter is None:
        return None
    position = re.search(r"index=(\d+)", counter.attributes)
    if not _is_number(limit) or position is None:
        return None
    added = _through_fusion(module, body, body.instructions[body.root.operands[int(position[1])]])
    steps = [int(term.argument) for term in added[1] if term and _is_number(term)] if added else []
    return -(-int(limit.argument) // (steps[0] if steps and steps[0] > 0 else 1))


def _through_fusion(
    module: Module, where: Computation, instruction: Instruction
) -> tuple[Instruction, tuple[Instruction | None, Instruction | None]] | None:
    """An instruction of two operands, or the one a fusion computes, with its operands as `where` knows them."""
    inner = where
    root = instruction
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.calls["calls"]]
        root = inner.root
    if len(root.operands) != 2:
        return None
    found: list[Instruction | None] = []
    for name in root.operands:
        operand = inner.instructions.get(name)
        if operand is not None and operand.opcode == "parameter" and inner is not where:
            operand = where.instructions.get(instruction.operands[operand.parameter])
        found.append(operand)
    return root, (found[0], found[1])


def _is_number(instruction: Instruction) -> bool:
    return instruction.opcode == "constant" and instruction.argument.isdigit()


def _wire_share(kind: str, group: int) -> float:
    """Bytes that a device sends for each byte of payload, by the ring algorithms that reach the lower bound."""
    others = (group - 1) / group
    return {"all-reduce": 2 * others, "collective-permute": 1.0}.get(kind, others)


def _collectives(module: Module, where: Computation, instruction: Instruction) -> Iterator[tuple[str, int, int]]:
    """(kind, group size, payload bytes) of an instruction, or of what is fused into it."""
    if instruction.opcode in ("fusion", "async-start"):
        name = instruction.calls.get("calls", "")
        inner = module.computations.get(name)
        for fused in inner.instructions.values() if inner else ():
            for kind, group, payload in _collectives(module, inner or where, fused):
                # TPUs run a reduce-scatter as a fusion of an all-reduce and a slice, which is known by its name.
                yield ("reduce-scatter" if "all-reduce-scatter" in name else kind), group, payload
        return
    kind = instruction.opcode.removesuffix("-start")
    if kind not in _COLLECTIVES:
        return
    group = _group_size(instruction.attributes) if kind != "collective-permute" else 2
    payload = sum(shape.bytes for operand in instruction.operands for shape in where.shapes(operand))
    if group > 1:
        yield kind, group, payload * group if kind == "all-gather" else payload


def _group_size(attributes: str) -> int:
    """Devices of each replica group, in any of XLA's three ways of writing them; 1 where it names none."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        # 'axis':(a)b is the part of an axis that has b devices.
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2]))
    return 1


def _flops(module: Module, where: Computation, instruction: Instruction) -> float:
    if instruction.opcode in ("fusion", "async-start"):
        inner = module.computations.get(instruction.calls.get("calls", ""))
        return sum(_flops(module, inner, fused) for fused in inner.instructions.values()) if inner else 0.0
    if instruction.opcode == "dot":
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        lhs = where.shapes(instruction.operands[0])[0]
        contracted = [lhs.dims[int(axis)] for axis in dims[1].split(",") if axis] if dims else []
        return 2.0 * instruction.shapes[0].elements * math.prod(contracted)
    if instruction.opcode == "convolution":
        return _convolution_flops(where, instruction)
    if instruction.opcode == "custom-call" and is_splash(instruction.name):
        return splash_flops(instruction.name, _read_shapes(where, instruction))
    return 0.0


def _convolution_flops(where: Computation, instruction: Instruction) -> float:
    """TPUs write matrix products as convolutions: products that fall on padding or between dilated rows are none."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None, instruction.attributes
    lhs, rhs = (where.shapes(operand)[0] for operand in instruction.operands[:2])
    out = instruction.shapes[0]
    written = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    window = dict(re.findall(r"(\w+)=([\w\-]+)", written[1])) if written else {}
    products = float(out.dims[labels[3].index("b")] * out.dims[labels[3].index("f")] * rhs.dims[labels[2].index("i")])
    spatial = [label for label in labels[3] if label.isdigit()]
    for number, label in enumerate(spatial):

        def setting(key: str, default: str, number: int = number) -> str:
            return window[key].split("x")[number] if key in window else default

        low = int(setting("pad", "0_0").split("_")[0])
        products *= _taps(
            lhs.dims[labels[1].index(label)],
            rhs.dims[labels[2].index(label)],
            out.dims[labels[3].index(label)],
            low,
            int(setting("stride", "1")),
            int(setting("lhs_dilate", "1")),
            int(setting("rhs_dilate", "1")),
        )
    return 2.0 * products


@functools.cache
def _taps(size: int, kernel: int, out: int, low: int, stride: int, dilation: int, kernel_dilation: int) -> int:
    """(output, kernel) pairs of one dimension that meet an element of the input."""
    count = 0
    for tap in range(kernel):
        for position in range(out):
            at = position * stride + tap * kernel_dilation - low
            count += at % dilation == 0 and 0 <= at // dilation < size
    return count


def _is_work(instruction: Instruction) -> bool:
    return instruction.opcode not in _FREE and not instruction.opcode.endswith("-done")


def _moved(module: Module, where: Computation, instruction: Instruction) -> float:
    """Bytes of main memory that a top-level instruction reads and writes."""
    opcode = instruction.opcode
    if not _is_work(instruction):
        return 0
    if opcode in ("copy-start", "slice-start"):
        target, source = instruction.shapes[:2] if opcode == "copy-start" else instruction.shapes[1::-1]
        return target.bytes * (target.in_main_memory + source.in_main_memory)
    if opcode == "custom-call" and is_splash(instruction.name):
        return splash_bytes(instruction.name, _read_shapes(where, instruction), instruction.shapes)
    inner = module.computations.get(instruction.calls.get("calls", "")) if opcode == "fusion" else None
    total = 0.0
    for index, operand in enumerate(instruction.operands):
        shapes = [shape for shape in where.shapes(operand) if shape.in_main_memory]
        whole = sum(shape.bytes for shape in shapes)
        if shapes and inner is not None:
            total += min(whole, _read(module, inner, index))
        elif opcode in _SLICES:
            total += min(whole, _size(instruction.shapes)) if index == 0 else whole
        elif opcode == "dynamic-update-slice":
            total += 0 if index == 0 else whole
        else:
            total += whole
    if any(shape.in_main_memory for shape in instruction.shapes):
        total += _written(module, where, instruction)
    return total


def _read_shapes(where: Computation, instruction: Instruction) -> list[Shape]:
    return [shape for operand in instruction.operands for shape in where.shapes(operand)]


def _read(module: Module, fused: Computation, parameter: int) -> float:
    """Bytes that a fused computation reads of one parameter: slices of it where nothing else is used."""
    name = next(i.name for i in fused.instructions.values() if i.opcode == "parameter" and i.parameter == parameter)
    return _read_value(module, fused, name)


def _read_value(module: Module, fused: Computation, name: str) -> float:
    whole = float(_size(fused.shapes(name)))
    total = 0.0
    for user in fused.users(name):
        for index in (i for i, operand in enumerate(user.operands) if operand == name):
            if user.opcode in _SLICES and index == 0:
                total += _size(user.shapes)
            elif user.opcode == "dynamic-update-slice" and index == 0:
                total += 0
            elif user.opcode == "bitcast":
                total += _read_value(module, fused, user.name)
            elif user.opcode == "fusion":
                total += _read(module, module.computations[user.calls["calls"]], index)
            else:
                return whole
    return min(whole, total)


def _written(module: Module, where: Computation, instruction: Instruction) -> float:
    """Bytes written for a value: the update alone where it is written into a larger array in place."""
    match instruction.opcode:
        case "dynamic-update-slice":
            return _size(where.shapes(instruction.operands[1]))
        case "fusion":
            inner = module.computations[instruction.calls["calls"]]
            if inner.root.opcode != "tuple":
                return min(_size(instruction.shapes), _written(module, inner, inner.root))
            parts = [_written(module, inner, inner.instructions[name]) for name in inner.root.operands]
            # The parts of a fusion of several results go to memories of their own.
            return sum(part for part, shape in zip(parts, instruction.shapes, strict=False) if shape.in_main_memory)
        case "bitcast":
            return _written(module, where, where.instructions[instruction.operands[0]])
        case _:
            return _size(instruction.shapes)


def _size(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes)
