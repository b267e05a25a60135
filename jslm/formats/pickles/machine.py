"""Pickles as data: the virtual machine of Python's `pickle`, which builds plain containers and runs nothing.

The instructions are those of "pickletools" in Python's standard library. A class of the file becomes an inert `Record`
under its name; a call goes through only where the caller's table has that very name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jslm.errors import JslmError

# A checkpoint's pickle has some ten thousand instructions: these bound memory to a few hundred MB.
_MAX_STEPS = 4_000_000
_MAX_BYTES = 64 << 20

Calls = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Name:
    """A class or function that the file names, such as `torch.float32`. Nothing is imported."""

    name: str


@dataclass
class Record:
    """An object of a class that jslm does not import: its class's name, constructor arguments and attributes."""

    name: str
    arguments: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


class _Damaged(Exception):
    """The bytes are no pickle that Python would have written."""


def run_pickle(
    data: memoryview, where: str, calls: Calls, persistent: Callable[[Any], Any] | None = None
) -> tuple[Any, int]:
    """The object that a pickle at the start of `data` describes, and the number of bytes it takes.

    `calls` has the functions that the file may call, by dotted name; `persistent` turns a persistent id into an object.
    Raises JslmError, beginning with `where`, for a damaged or oversized pickle, and with the name of what it tried to
    call where `calls` has no such function. Memory and time are bounded whatever the bytes are.
    """
    machine = _Machine(data[:_MAX_BYTES], where, calls, persistent)
    try:
        return machine.run(), machine.at
    except (_Damaged, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error) as error:
        reason = str(error) if isinstance(error, _Damaged) else "it is cut off or damaged"
        raise JslmError(f"{where}: not a pickle that can be read: {reason} (at byte {machine.at})") from None


class _Machine:
    """One run over one pickle."""

    def __init__(
        self, data: memoryview, where: str, calls: Calls, persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.at = 0
        self._data = data
        self._where = where
        self._calls = calls
        self._persistent = persistent
        self._steps = 0
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self._take(1)[0]
            self._charge(1)
            if code == ord("."):
                return self._stack.pop()
            if code not in _INSTRUCTIONS:
                raise _Damaged(f"byte {code:#04x} is no instruction")
            _INSTRUCTIONS[code](self)

    def _charge(self, steps: int) -> None:
        """Counts work: a copy of n entries is n steps, or a small file could ask for endless copies of one list."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise _Damaged(f"it takes more than {_MAX_STEPS:,} steps, as no checkpoint does")

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self.at:
            raise _Damaged("it is cut off")
        self.at += count
        return self._data[self.at - count : self.at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _sized(self, layout: str) -> bytes:
        return bytes(self._take(self._number(layout)))

    def _line(self, encoding: str = "utf-8") -> str:
        # Lines hold names and numbers; a window keeps the search short.
        window = bytes(self._data[self.at : self.at + 4096])
        end = window.find(b"\n")
        if end < 0:
            raise _Damaged("a line has no end")
        self.at += end + 1
        return window[:end].decode(encoding)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        self._charge(len(items))
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _quoted(self) -> None:
        text = self._line("ascii")
        if "\\" in text:
            raise _Damaged("a quoted text, which only Python 2 wrote, has an escape")
        self._push(text.strip("'\""))

    def _integer(self) -> None:
        text = self._line()
        self._push({"00": False, "01": True}.get(text, int(text.removesuffix("L"))))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise _Damaged(f"it appends to {_kind(target)}")
        target.extend(items)

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, set):
            raise _Damaged(f"it adds to {_kind(target)}")
        target.update(map(_key, items))

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise _Damaged(f"it sets keys of {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise _Damaged("its stack is empty")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Damaged("a name is no text")
        # Protocol 2 is written with Python 2's names.
        self._push(Name(f"{'builtins' if module == '__builtin__' else module}.{name}"))

    def _stack_global(self) -> None:
        module, name = self._last(2)
        self._named(module, name)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise _Damaged(f"it calls {_kind(function)}")
        if function.name == "copyreg._reconstructor" and len(arguments) == 3 and isinstance(arguments[0], Name):
            self._push(Record(arguments[0].name))
            return
        known = self._calls.get(function.name)
        if known is None:
            raise JslmError(
                f"{self._where}: refused: it calls {_shown(function.name)}, and jslm runs nothing that a file brings; "
                "save the plain state dict instead, if the file is yours"
            )
        self._charge(sum(len(part) for part in arguments if isinstance(part, list | dict | set | str | bytes)))
        self._push(known(*arguments))

    def _reduce(self) -> None:
        function, arguments = self._last(2)
        self._call(function, arguments)

    def _construct(self, has_keywords: bool) -> None:
        kind, arguments, *keywords = self._last(3 if has_keywords else 2)
        if not isinstance(kind, Name) or not isinstance(arguments, tuple):
            raise _Damaged(f"it makes an object of {_kind(kind)}")
        if kind.name in self._calls:
            self._call(kind, arguments)
            return
        made = Record(kind.name, arguments)
        self._push(made)
        if keywords:
            self._update(made, keywords[0])

    def _build(self) -> None:
        (state,) = self._last(1)
        target = self._stack[-1]
        if isinstance(target, Record):
            # Objects with __slots__ have a pair of states.
            for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
                if part is not None:
                    self._update(target, part)
        elif hasattr(target, "set_state"):
            target.set_state(state)
        elif not isinstance(target, dict):
            # A state dict's own attributes (`_metadata`) say nothing of the weights.
            raise _Damaged(f"it sets attributes of {_kind(target)}")

    def _update(self, target: Record, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise _Damaged(f"the attributes of a {_shown(target.name)} are {_kind(state)}")
        self._charge(len(state))
        target.attributes.update(state)

    def _old_object(self, from_line: bool) -> None:
        if from_line:
            module, name = self._line(), self._line()
            self._named(module, name)
            kind = self._stack.pop()
            arguments = self._to_mark()
        else:
            kind, *arguments = self._to_mark()
        self._call(kind, tuple(arguments))

    def _persist(self) -> None:
        (key,) = self._last(1)
        if self._persistent is None:
            raise _Damaged("it refers to data outside itself")
        self._push(self._persistent(key))


def _key(value: Any) -> Any:
    # Hashing nested tuples, or integers that collide by design, can take for ever.
    if value is None or isinstance(value, str | bytes) or (isinstance(value, int) and abs(value) < 2**60):
        return value
    raise _Damaged(f"a key is {_kind(value)}; texts and integers are read")


def _kind(value: Any) -> str:
    return _shown(value.name) if isinstance(value, Name | Record) else f"a {type(value).__name__}"


def _shown(name: str) -> str:
    # The file chose it: one line, of bounded length, with nothing that a terminal obeys.
    return "".join(char if char.isprintable() else "?" for char in name[:100])


def _protocol(machine: _Machine) -> None:
    version = machine._take(1)[0]
    if version > 5:
        raise _Damaged(f"it is of protocol {version}; there are 0 to 5")


def _long(machine: _Machine, layout: str) -> None:
    machine._push(int.from_bytes(machine._sized(layout), "little", signed=True))


def _text_of(layout: str, errors: str = "surrogatepass") -> Callable[[_Machine], None]:
    return lambda machine: machine._push(machine._sized(layout).decode("utf-8", errors))


def _bytes_of(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(machine._sized(layout))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(value)


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(tuple(machine._last(count)))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


_INSTRUCTIONS: dict[int, Callable[[_Machine], Any]] = {
    code[0]: action
    for code, action in {
        b"\x80": _protocol,
        b"\x95": lambda m: m._take(8),  # A frame's length: all is in memory anyway.
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"J": lambda m: m._push(m._number("<i")),
        b"K": lambda m: m._push(m._number("<B")),
        b"M": lambda m: m._push(m._number("<H")),
        b"\x8a": lambda m: _long(m, "<B"),
        b"\x8b": lambda m: _long(m, "<I"),
        b"I": _Machine._integer,
        b"L": _Machine._integer,
        b"F": lambda m: m._push(float(m._line())),
        b"G": lambda m: m._push(m._number(">d")),
        b"S": _Machine._quoted,
        b"V": lambda m: m._push(m._line("raw-unicode-escape")),
        b"T": _text_of("<I", "strict"),
        b"U": _text_of("<B", "strict"),
        b"X": _text_of("<I"),
        b"\x8c": _text_of("<B"),
        b"\x8d": _text_of("<Q"),
        b"B": _bytes_of("<I"),
        b"C": _bytes_of("<B"),
        b"\x8e": _bytes_of("<Q"),
        b"]": lambda m: m._push([]),
        b"l": lambda m: m._push(m._to_mark()),
        b"a": lambda m: m._append(m._last(1)),
        b"e": lambda m: m._append(m._to_mark()),
        b")": _constant(()),
        b"t": lambda m: m._push(tuple(m._to_mark())),
        b"\x85": _tuple_of(1),
        b"\x86": _tuple_of(2),
        b"\x87": _tuple_of(3),
        b"}": lambda m: m._push({}),
        b"d": lambda m: m._push(_pairs(m._to_mark())),
        b"s": lambda m: m._set(m._last(2)),
        b"u": lambda m: m._set(m._to_mark()),
        b"\x8f": lambda m: m._push(set()),
        b"\x90": lambda m: m._add(m._to_mark()),
        b"\x91": lambda m: m._push(frozenset(map(_key, m._to_mark()))),
        b"(": _Machine._mark,
        b"0": _Machine._pop,
        b"1": _Machine._to_mark,
        b"2": lambda m: m._push(m._stack[-1]),
        b"\x94": lambda m: m._put(len(m._memo)),
        b"p": lambda m: m._put(int(m._line())),
        b"q": lambda m: m._put(m._number("<B")),
        b"r": lambda m: m._put(m._number("<I")),
        b"g": lambda m: m._push(m._memo[int(m._line())]),
        b"h": lambda m: m._push(m._memo[m._number("<B")]),
        b"j": lambda m: m._push(m._memo[m._number("<I")]),
        b"c": lambda m: m._named(m._line(), m._line()),
        b"\x93": _Machine._stack_global,
        b"R": _Machine._reduce,
        b"\x81": lambda m: m._construct(has_keywords=False),
        b"\x92": lambda m: m._construct(has_keywords=True),
        b"i": lambda m: m._old_object(from_line=True),
        b"o": lambda m: m._old_object(from_line=False),
        b"b": _Machine._build,
        b"Q": _Machine._persist,
    }.items()
}
