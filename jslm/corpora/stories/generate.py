"""Stories drawn from the grammar, their exact probability, and the grammar's entropy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from jslm.corpora.stories.grammar import Choice, Concat, Env, Literal, Node
from jslm.corpora.stories.plots import LANGUAGE, NODES, PLOTS
from jslm.errors import JslmError

OBSTACLES = {"stuck": "spot", "lost": "hide", "gift": "mishap", "share": "deal", "noise": "noise", "earn": "job"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a story keeps to from its first line to its last."""

    plot: str
    hero: str
    kind: str
    trait: str
    place: str
    weather: str
    adjective: str
    thing: str
    helper: str
    helper_kind: str
    obstacle: str


@dataclass(frozen=True, slots=True)
class Story:
    """A text, the facts in it, and `bits` = -log2 of its probability under the grammar."""

    text: str
    bits: float
    facts: Facts


def generate_story(rng: random.Random) -> Story:
    """Draws one story. Uses `rng.random()` only, so a seed gives the same story on every Python version."""
    return _generate(rng)


def generate_stories(megabytes: float, seed: int) -> Iterator[Story]:
    """Yields stories until their texts reach `megabytes` (10**6 bytes each) in all, the last one whole.

    Raises `JslmError` at once if `megabytes` is not a positive number or `seed` is negative.
    """
    if not (math.isfinite(megabytes) and megabytes > 0):
        raise JslmError(f"stories: megabytes = {megabytes}; expected a positive number, such as 20")
    if seed < 0:
        raise JslmError(f"stories: seed = {seed}; expected 0 or more")
    return _stream(megabytes * 1e6, random.Random(seed))


def story_bits(text: str) -> float | None:
    """-log2 of the text's probability under the grammar, or None where the grammar cannot write it."""
    for bits in all_readings(text):
        return bits
    return None


def all_readings(text: str) -> Iterator[float]:
    """The bits of every derivation of a whole text: one for a story, none for anything else.

    More than one would mean that the grammar is ambiguous and `Story.bits` too high; the tests look for that.
    """
    for reading in STORY.read(text, 0, {}):
        if reading.pos == len(text):
            yield reading.bits


def _stream(target: float, rng: random.Random) -> Iterator[Story]:
    total = 0
    while total < target:
        story = _generate(rng)
        total += len(story.text)  # ASCII: a character is a byte
        yield story


def _generate(rng: random.Random) -> Story:
    out: list[str] = []
    env: Env = {}
    bits = STORY.write(out, env, rng.random)
    return Story("".join(out), bits, facts_of(env))


def facts_of(env: Env) -> Facts:
    """The facts drawn for a whole story, in words."""

    def say(name: str) -> str:
        return _words(LANGUAGE.facts[name].values[env[name]][""], env)

    plot = next(plot for plot, obstacle in OBSTACLES.items() if obstacle in env)
    return Facts(
        plot=plot,
        hero=say("hero"),
        kind=say("kind"),
        trait=say("trait"),
        place=say("place"),
        weather=say("weather"),
        adjective=say("adj"),
        thing=say("thing"),
        helper=say("helper"),
        helper_kind=say("kind2"),
        obstacle=say(OBSTACLES[plot]),
    )


def _words(node: Node, env: Env) -> str:
    if isinstance(node, Literal):
        return node.text
    out: list[str] = []
    node.write(out, env, lambda: 0.0)
    return "".join(out)


def _story_grammar() -> Choice:
    plots: list[Node] = []
    for paragraphs in PLOTS.values():
        parts: list[Node] = []
        for beats in paragraphs:
            parts += [part for beat in beats for part in (NODES[beat], Literal(" "))]
            parts[-1] = Literal("\n\n")
        plots.append(Concat(tuple(parts[:-1])))
    return Choice(plots, [1] * len(plots))


STORY = _story_grammar()
