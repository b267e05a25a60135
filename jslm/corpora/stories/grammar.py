"""Templates with exactly known probability: one tree writes a text and reads it back.

A template is text with three kinds of hole:

- `{fact}` or `{fact.form}`: a fact of the story. Its first mention draws it, later ones repeat it;
- `<words>`: a draw from a shared list, which may itself hold templates;
- `[one|two*3|three]`: a choice on the spot; `*3` makes an alternative three times as likely.

Nothing is drawn before it is written, so a text's probability is the product over the draws of its one derivation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import NamedTuple

Env = dict[str, int]
Random = Callable[[], float]


class Slip(NamedTuple):
    """A fact that a text contradicts: which, what it was until then, what is found."""

    fact: str
    expected: str
    found: str


class Parse(NamedTuple):
    """One reading of the text up to `pos`."""

    pos: int
    env: Env
    bits: float
    slips: tuple[Slip, ...]


class Node:
    """A piece of grammar."""

    def write(self, out: list[str], env: Env, random: Random) -> float:
        """Appends a drawn text to `out`, facts to `env`; returns -log2 of the draws' probability."""
        raise NotImplementedError

    def read(self, text: str, pos: int, env: Env, loose: bool = False) -> Iterator[Parse]:
        """Yields every reading of `text` from `pos`. `loose`: a wrong fact is a slip rather than no reading."""
        raise NotImplementedError


@dataclass(frozen=True)
class Literal(Node):
    """Fixed text."""

    text: str

    def write(self, out: list[str], env: Env, random: Random) -> float:
        """See `Node`."""
        out.append(self.text)
        return 0.0

    def read(self, text: str, pos: int, env: Env, loose: bool = False) -> Iterator[Parse]:
        """See `Node`."""
        if text.startswith(self.text, pos):
            yield Parse(pos + len(self.text), env, 0.0, ())


@dataclass(frozen=True)
class Concat(Node):
    """Pieces one after another."""

    parts: tuple[Node, ...]

    def write(self, out: list[str], env: Env, random: Random) -> float:
        """See `Node`."""
        bits = 0.0
        for part in self.parts:
            if part.__class__ is Literal:
                out.append(part.text)
            else:
                bits += part.write(out, env, random)
        return bits

    def read(self, text: str, pos: int, env: Env, loose: bool = False) -> Iterator[Parse]:
        """See `Node`."""
        return self._read_from(0, text, pos, env, loose)

    def _read_from(self, index: int, text: str, pos: int, env: Env, loose: bool) -> Iterator[Parse]:
        if index == len(self.parts):
            yield Parse(pos, env, 0.0, ())
            return
        for head in self.parts[index].read(text, pos, env, loose):
            for tail in self._read_from(index + 1, text, head.pos, head.env, loose):
                yield Parse(tail.pos, tail.env, head.bits + tail.bits, head.slips + tail.slips)


class Choice(Node):
    """One of several pieces, with whole-number weights."""

    def __init__(self, options: Sequence[Node], weights: Sequence[int]) -> None:
        total = sum(weights)
        self.options = tuple(options)
        self.costs = tuple(log2(total / weight) for weight in weights)
        # A table with each option as often as its weight: one random() and one index a draw.
        self._table = tuple(
            (option, cost)
            for option, cost, weight in zip(self.options, self.costs, weights, strict=True)
            for _ in range(weight)
        )

    def write(self, out: list[str], env: Env, random: Random) -> float:
        """See `Node`."""
        option, cost = self._table[int(random() * len(self._table))]
        return cost + option.write(out, env, random)

    def read(self, text: str, pos: int, env: Env, loose: bool = False) -> Iterator[Parse]:
        """See `Node`."""
        for option, cost in zip(self.options, self.costs, strict=True):
            for parse in option.read(text, pos, env, loose):
                yield parse._replace(bits=parse.bits + cost)


@dataclass
class Fact:
    """A fact's possible values, each a map of form -> piece; the form "" is its plain name."""

    name: str
    values: tuple[dict[str, Node], ...]
    labels: tuple[str, ...] = field(default=())


class Mention(Node):
    """A fact in one of its forms: draws it where it is not yet known."""

    def __init__(self, fact: Fact, form: str) -> None:
        self._fact = fact
        self._name = fact.name
        self._form = form
        self._forms = tuple(value[form] for value in fact.values)
        self._cost = log2(len(fact.values))

    def write(self, out: list[str], env: Env, random: Random) -> float:
        """See `Node`."""
        index = env.get(self._name)
        if index is not None:
            return self._forms[index].write(out, env, random)
        index = int(random() * len(self._forms))
        env[self._name] = index
        return self._cost + self._forms[index].write(out, env, random)

    def read(self, text: str, pos: int, env: Env, loose: bool = False) -> Iterator[Parse]:
        """See `Node`."""
        known = env.get(self._name)
        if known is not None:
            yield from self._forms[known].read(text, pos, env, loose)
            if loose:
                yield from self._read_wrong(known, text, pos, env)
            return
        for index, form in enumerate(self._forms):
            for parse in form.read(text, pos, {**env, self._name: index}, loose):
                yield parse._replace(bits=parse.bits + self._cost)

    def _read_wrong(self, known: int, text: str, pos: int, env: Env) -> Iterator[Parse]:
        seen = {self._forms[known]}
        for form in self._forms:
            if form in seen:
                continue
            seen.add(form)
            for parse in form.read(text, pos, env, True):
                slip = Slip(self._name, self._fact.labels[known], text[pos : parse.pos])
                yield parse._replace(slips=(slip, *parse.slips))


class Language:
    """Word lists and facts, and the compiler from template strings to nodes."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self._words: dict[str, Node] = {}

    def add_words(self, name: str, words: str) -> None:
        """Names a list, given as `a|b|c`."""
        self._words[name] = self.compile(f"[{words}]")

    def add_fact(self, name: str, values: Sequence[Mapping[str, str]]) -> None:
        """Names a fact. Each value maps a form to a template, which may mention this fact and earlier ones."""
        fact = Fact(name, (), tuple(value[""] for value in values))
        self.facts[name] = fact
        fact.values = tuple({form: self.compile(text) for form, text in value.items()} for value in values)

    def compile(self, template: str) -> Node:
        """The node of one template; `KeyError` names an unknown fact, form or list."""
        node, end = self._sequence(template, 0, inside=False)
        if end != len(template):
            raise ValueError(f"template {template!r}: unbalanced bracket at {end}")
        return node

    def choice(self, templates: Sequence[str]) -> Choice:
        """A choice between templates; a final `*n` is a weight."""
        weights, nodes = [], []
        for template in templates:
            match = re.fullmatch(r"(.*?)(?:\*(\d+))?", template, re.DOTALL)
            assert match is not None
            nodes.append(self.compile(match[1]))
            weights.append(int(match[2] or 1))
        return Choice(nodes, weights)

    def _sequence(self, template: str, pos: int, inside: bool) -> tuple[Node, int]:
        parts: list[Node] = []
        stops = "|]*" if inside else "]"
        while pos < len(template) and template[pos] not in stops:
            if template[pos] == "{":
                end = template.index("}", pos)
                fact, _, form = template[pos + 1 : end].partition(".")
                parts.append(Mention(self.facts[fact], form))
                pos = end + 1
            elif template[pos] == "<":
                end = template.index(">", pos)
                parts.append(self._words[template[pos + 1 : end]])
                pos = end + 1
            elif template[pos] == "[":
                node, pos = self._bracket(template, pos + 1)
                parts.append(node)
            else:
                match = re.compile(r"[^{<\[|\]*]+").match(template, pos)
                if match is None:
                    raise ValueError(f"template {template!r}: unexpected {template[pos]!r} at {pos}")
                parts.append(Literal(match[0]))
                pos = match.end()
        return (parts[0] if len(parts) == 1 else Concat(tuple(parts))), pos

    def _bracket(self, template: str, pos: int) -> tuple[Node, int]:
        options: list[Node] = []
        weights: list[int] = []
        while True:
            node, pos = self._sequence(template, pos, inside=True)
            weight = re.compile(r"\*(\d+)").match(template, pos)
            options.append(node)
            weights.append(int(weight[1]) if weight else 1)
            pos = weight.end() if weight else pos
            if pos >= len(template):
                raise ValueError(f"template {template!r}: bracket never closed")
            pos += 1
            if template[pos - 1] == "]":
                return Choice(options, weights), pos
