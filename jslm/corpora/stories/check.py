"""Whether a text, by a model or by hand, is a whole story that agrees with itself."""

from __future__ import annotations

import re

from jslm.corpora.stories.grammar import Env, Parse
from jslm.corpora.stories.plots import NODES, PLOTS


def check_story(text: str) -> list[str]:
    """The problems of a story, an empty list where it has none.

    Each sentence must be one that the grammar has for its place in some plot; the plot's turns must all come, in order,
    from an opening to that plot's ending; and every mention of a fact (names, kinds, place, weather, thing and its
    adjective, the obstacle and what goes with it) must agree with the first. Paragraphs may break anywhere: the grammar
    would not, but a story may.
    """
    text = text.strip()
    if not text:
        return ["the story is empty"]
    best: list[str] | None = None
    for plot in PLOTS:
        problems = _check_plot(text, plot, 10**9 if best is None else len(best))
        if best is None or len(problems) < len(best):
            best = problems
    return best or []


def _check_plot(text: str, plot: str, limit: int) -> list[str]:
    """The problems of `text` as a story of `plot`; stops where they reach `limit`."""
    beats = [beat for paragraph in PLOTS[plot] for beat in paragraph]
    problems: list[str] = []
    env: Env = {}
    pos = index = 0
    while pos < len(text) and len(problems) < limit:
        here, parse = _next_beat(text, pos, env, beats, index)
        if parse is None:
            end = _sentence_end(text, pos)
            where = "text after the ending" if index == len(beats) else "not a sentence that fits here"
            problems.append(f"{where}: {text[pos:end].strip()!r}")
            pos = end
            continue
        problems += [f"missing: {beat}" for beat in beats[index:here]]
        sentence = text[pos : parse.pos]
        problems += [
            f"{slip.fact}: {slip.expected!r} until now, but {slip.found!r} in {sentence!r}" for slip in parse.slips
        ]
        index = here + 1
        env, pos = parse.env, _skip_space(text, parse.pos)
    return problems + [f"missing: {beat}" for beat in beats[index:]]


def _next_beat(text: str, pos: int, env: Env, beats: list[str], index: int) -> tuple[int, Parse | None]:
    for ahead in range(index, len(beats)):
        parse = _read_beat(text, pos, env, beats[ahead])
        if parse is not None:
            return ahead, parse
    return index, None


def _read_beat(text: str, pos: int, env: Env, beat: str) -> Parse | None:
    whole = [
        parse
        for parse in NODES[beat].read(text, pos, env, loose=True)
        if parse.pos == len(text) or text[parse.pos].isspace()
    ]
    return min(whole, key=lambda parse: (len(parse.slips), -parse.pos), default=None)


def _sentence_end(text: str, pos: int) -> int:
    match = re.compile(r"[.!?]+[\"']?\s+|\n+").search(text, pos)
    return match.end() if match else len(text)


def _skip_space(text: str, pos: int) -> int:
    while pos < len(text) and text[pos].isspace():
        pos += 1
    return pos
