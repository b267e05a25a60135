"""The text of a compiled XLA program, read into computations, instructions and shapes."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLS = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a result: its type, dimensions, and the memory space of its layout (0: the device's main memory)."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of a tiled layout."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)
        return -(-self.elements * bits // 8)

    @property
    def in_main_memory(self) -> bool:
        """Whether reading it is traffic of the device's main memory."""
        return self.space == 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shapes opcode(operands), attributes`. `argument` is the text in the parentheses."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    argument: str
    attributes: str

    @property
    def parameter(self) -> int:
        """The number of a `parameter`."""
        return int(self.argument)

    @functools.cached_property
    def calls(self) -> dict[str, str]:
        """Computations that it names, by attribute."""
        return dict(_CALLS.findall(self.attributes))

    @property
    def branches(self) -> list[str]:
        """The computations of a `conditional`."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return [name.strip().lstrip("%") for name in listed[1].split(",")]
        return [self.calls[key] for key in ("true_computation", "false_computation") if key in self.calls]


class Computation:
    """Instructions by name, in order."""

    def __init__(self, instructions: dict[str, Instruction], root: str) -> None:
        """`root` names the instruction whose value is the computation's."""
        self.instructions = instructions
        self.root = instructions[root]
        self._users: dict[str, list[Instruction]] = {}
        for instruction in instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                self._users.setdefault(operand, []).append(instruction)

    def shapes(self, name: str) -> tuple[Shape, ...]:
        """The shapes of a value; none for a name that is not here."""
        return self.instructions[name].shapes if name in self.instructions else ()

    def users(self, name: str) -> list[Instruction]:
        """The instructions that read a value."""
        return self._users.get(name, [])


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which of them is run."""

    computations: dict[str, Computation]
    entry: str


def parse_hlo(text: str) -> Module:
    """Reads what `jax.stages.Compiled.as_text` gives.

    The format: https://openxla.org/xla/operation_semantics and the HLO printer of the XLA sources.
    """
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    instructions: dict[str, Instruction] = {}
    for line in _whole_lines(text):
        if line and not line[0].isspace():
            if header := _COMPUTATION.match(line):
                name, instructions, root = header[2], {}, ""
                entry = name if header[1] else entry
            elif line.startswith("}") and instructions:
                computations[name] = Computation(instructions, root or next(reversed(instructions)))
                instructions = {}
        elif found := _INSTRUCTION.match(line):
            instruction = _parse_instruction(found[2], found[3])
            if instruction is not None:
                instructions[instruction.name] = instruction
                root = instruction.name if found[1] else root
    return Module(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, with what Pallas writes into the middle of a kernel's put back where it belongs."""
    held = ""
    for line in text.splitlines():
        if line.startswith(('"', "}}")):
            held += line
        else:
            yield held
            held = line
    yield held


def _parse_instruction(name: str, text: str) -> Instruction | None:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    head = re.match(r"\s*([\w\-]+)\(", text[end:])
    if head is None:
        return None
    start = end + head.end() - 1
    stop = _closing(text, start)
    argument = text[start + 1 : stop]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, head[1], _shapes(text[:end]), operands, argument, text[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


@functools.lru_cache(maxsize=65536)
def _shapes(text: str) -> tuple[Shape, ...]:
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size)
        found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)
