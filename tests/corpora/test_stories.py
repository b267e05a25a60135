"""The story grammar: exact probabilities, one derivation a text, and a checker that sees contradictions."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from jslm.corpora.stories import Story, check_story, generate_stories, generate_story, story_bits
from jslm.corpora.stories.__main__ import main
from jslm.corpora.stories.generate import all_readings
from jslm.corpora.stories.grammar import Language
from jslm.corpora.stories.words import COLOURS, HELPERS, HEROES, PLACES, THINGS, WEATHERS
from jslm.errors import JslmError


def _stories(count: int, seed: int) -> list[Story]:
    rng = random.Random(seed)
    return [generate_story(rng) for _ in range(count)]


def test_each_story_has_one_derivation_of_the_probability_it_was_drawn_with() -> None:
    for story in _stories(800, seed=1):
        readings = list(all_readings(story.text))
        assert len(readings) == 1, story.text
        assert readings[0] == pytest.approx(story.bits, abs=1e-9)


def _count_draws(template_language: Language, template: str, draws: int) -> tuple[Counter[str], dict[str, float]]:
    node, rng = template_language.compile(template), random.Random(0)
    counts: Counter[str] = Counter()
    bits: dict[str, float] = {}
    for _ in range(draws):
        out: list[str] = []
        cost = node.write(out, {}, rng.random)
        counts["".join(out)] += 1
        bits["".join(out)] = cost
    return counts, bits


def test_bits_are_the_frequencies_of_a_small_language() -> None:
    language = Language()
    language.add_words("w", "p|q*2")
    language.add_fact("hero", [{"": "Al", "he": "he"}, {"": "Jo", "he": "she"}])
    counts, bits = _count_draws(language, "[{hero} <w> <w>, {hero.he}|{hero} {hero}*3]", draws=40_000)
    # 1/4 * 1/2 * (1/3 or 2/3) * (1/3 or 2/3) for each of 8, and 3/4 * 1/2 for each of 2.
    wanted = {
        f"{name} {a} {b}, {pronoun}": (1 + (a == "q")) * (1 + (b == "q")) / 72
        for name, pronoun in (("Al", "he"), ("Jo", "she"))
        for a in "pq"
        for b in "pq"
    }
    assert {text: 2**-cost for text, cost in bits.items()} == pytest.approx(wanted | {"Al Al": 3 / 8, "Jo Jo": 3 / 8})
    for text, cost in bits.items():
        p = 2**-cost
        assert counts[text] / 40_000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 40_000))


def test_stories_are_the_same_for_a_seed_on_every_python() -> None:
    story = generate_story(random.Random(2024))
    assert (len(story.text), round(story.bits, 6)) == GOLDEN, "update GOLDEN if the grammar was changed on purpose"
    assert [s.text for s in generate_stories(0.01, 3)] == [s.text for s in generate_stories(0.01, 3)]
    assert next(generate_stories(0.01, 3)).text != next(generate_stories(0.01, 4)).text


GOLDEN = (600, 59.511403)


def test_generate_stories_stops_at_the_size_asked_for() -> None:
    sizes = [len(story.text.encode()) for story in generate_stories(0.05, seed=0)]
    assert sum(sizes[:-1]) < 50_000 <= sum(sizes)


def test_stories_are_plain_short_and_state_their_facts() -> None:
    texts = set()
    for story in _stories(1500, seed=2):
        text, facts = story.text, story.facts
        texts.add(text)
        assert text.isascii()
        assert 400 <= len(text) <= 700
        assert text.count('"') % 2 == 0
        assert not re.search(r"[{}<>\[\]|*]|  | [,.!?]|\ba [aeiou]|\ban [^aeiou]|[a-z] \n", text), text
        assert not re.search(r"(?:^|\n|[.!?] )[a-z]", re.sub(r"[!?]\" [a-z]", "", text)), text
        assert facts.hero != facts.helper
        assert facts.kind != facts.helper_kind
        for field in fields(facts):
            value = getattr(facts, field.name)
            if field.name not in ("plot", "place"):
                assert value in text, (field.name, value, text)
        assert facts.place in text or PLACES[facts.place] in text
    assert len(texts) == 1500


def test_vocabulary_is_small_enough_for_a_small_bpe() -> None:
    words = Counter(word for story in _stories(3000, 3) for word in re.findall(r"[a-z']+", story.text.lower()))
    assert 450 <= len(words) <= 950


def test_text_outside_the_language_has_no_probability() -> None:
    text = generate_story(random.Random(5)).text
    assert story_bits("") is None
    assert story_bits(text + " ") is None
    assert story_bits(text[:-1]) is None
    assert story_bits(text.replace(". ", ".  ", 1)) is None
    assert story_bits("Once upon a time there was a model.") is None


def test_a_byte_has_some_tenths_of_a_bit() -> None:
    stories = _stories(400, seed=9)
    assert 0.1 < sum(s.bits for s in stories) / sum(len(s.text) for s in stories) < 0.3


def test_every_generated_story_passes_the_check() -> None:
    for story in _stories(150, seed=11):
        assert check_story(story.text) == [], story.text


def _swap_one(text: str, old: str, new: str, rng: random.Random) -> str | None:
    """`text` with one mention of a whole word replaced, not the only one."""
    spots = [m.start() for m in re.finditer(rf"\b{re.escape(old)}\b", text)]
    if len(spots) < 2:
        return None
    spot = spots[int(rng.random() * len(spots))]
    return text[:spot] + new + text[spot + len(old) :]


def _other(values: list[str], *taken: str) -> str:
    return next(value for value in values if value not in taken)


def _mutate(story: Story, other: Story, kind: str, rng: random.Random) -> str | None:
    text, facts = story.text, story.facts
    paragraphs = text.split("\n\n")
    match kind:
        case "hero":
            return _swap_one(text, facts.hero, _other(HEROES, facts.hero), rng)
        case "hero for helper":
            return _swap_one(text, facts.hero, facts.helper, rng)
        case "helper":
            return _swap_one(text, facts.helper, _other(HELPERS, facts.helper), rng)
        case "thing":
            return _swap_one(text, facts.thing, _other(list(THINGS), facts.thing), rng)
        case "adjective":
            return _swap_one(text, facts.adjective, _other(COLOURS, facts.adjective), rng)
        case "place":
            return _swap_one(text, facts.place, _other(list(PLACES), facts.place), rng)
        case "weather":
            # It is named once; its end comes later.
            return text.replace(facts.weather, _other(list(WEATHERS), facts.weather), 1)
        case "no ending":
            return "\n\n".join(paragraphs[:-1])
        case "no opening":
            return "\n\n".join(paragraphs[1:])
        case "cut short":
            return text[: int(len(text) * (0.3 + 0.6 * rng.random()))]
        case "splice":
            return "\n\n".join(paragraphs[:2] + other.text.split("\n\n")[2:])
        case "two stories":
            return text + "\n\n" + other.text
        case "garble":
            words = text.split(" ")
            spot = 5 + int(rng.random() * (len(words) - 6))
            return " ".join([*words[:spot], words[spot] + "le", *words[spot + 1 :]])
        case _:
            raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("hero", "hero for helper", "helper", "thing", "adjective", "place", "weather"),
        *("no ending", "no opening", "cut short", "splice", "two stories", "garble"),
    ],
)
def test_a_contradiction_is_found(kind: str) -> None:
    rng = random.Random(77)
    stories = _stories(61, seed=13)
    mutants = [_mutate(story, other, kind, rng) for story, other in itertools.pairwise(stories)]
    wrong = [mutant for mutant, story in zip(mutants, stories, strict=False) if mutant and mutant != story.text]
    assert len(wrong) >= 5
    missed = [mutant for mutant in wrong if not check_story(mutant)]
    assert len(missed) <= 0.04 * len(wrong), missed[0]


@pytest.mark.parametrize("kind", ["hero", "helper", "thing", "adjective", "place"])
def test_problems_name_the_fact_and_show_the_sentence(kind: str) -> None:
    rng = random.Random(3)
    name = {"adjective": "adj"}.get(kind, kind)
    named = []
    for story in _stories(40, seed=17):
        mutant = _mutate(story, story, kind, rng)
        problems = check_story(mutant) if mutant else []
        if problems:
            named.append(any(problem.startswith(f"{name}: ") and " in '" in problem for problem in problems))
    assert len(named) >= 5
    assert sum(named) >= 0.8 * len(named)


def test_an_empty_text_is_a_problem() -> None:
    assert check_story(" \n") == ["the story is empty"]


@pytest.mark.parametrize("megabytes", [0.0, -1.0, math.nan, math.inf])
def test_a_senseless_size_is_refused(megabytes: float) -> None:
    with pytest.raises(JslmError, match="megabytes"):
        generate_stories(megabytes, seed=0)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(JslmError, match="seed"):
        generate_stories(1.0, seed=-1)


def test_command_line_writes_jsonl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stories.jsonl"
    assert main(["--megabytes", "0.01", "--seed", "1", "--out", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(len(row["text"]) for row in rows) >= 10_000
    assert all(story_bits(row["text"]) == pytest.approx(row["bits"], abs=1e-8) for row in rows)
    assert main(["--count", "2", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith(rows[0]["text"])
    assert main(["--megabytes", "1"]) == 2
    assert main(["--count", "0"]) == 2
    assert main(["--megabytes", "0.01", "--out", str(path / "x.jsonl")]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
