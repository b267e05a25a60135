"""Filters: each figure against a naive count, each threshold from both sides, reports that add up."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jslm.text.documents import Document
from jslm.text.dropped import EXCERPT_CHARACTERS, DropReport
from jslm.text.filters import (
    FilterConfig,
    alphabetic_share,
    duplicate_line_share,
    judge,
    top_ngram,
)


def passing(documents: list[Document], config: FilterConfig, report: DropReport) -> list[Document]:
    return [document for document in documents if report.judge(document, judge(document.text, config))]


PROSE = "The fox went over the hill to see what it could see, and saw another hill.\nIt turned round and went home."


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=60))
def test_alphabetic_share_is_what_counting_gives(text: str) -> None:
    visible = [character for character in text if not character.isspace()]
    letters = [character for character in visible if unicodedata.category(character)[0] in "LM"]
    assert alphabetic_share(text) == (len(letters) / len(visible) if visible else 0.0)


@pytest.mark.parametrize(
    ("text", "share"),
    [("abc", 1.0), ("a1 b2", 0.5), ("", 0.0), (" \n", 0.0), ("Привет мир", 1.0), ("हिन्दी में", 1.0), ("日本語。", 0.75)],
)
def test_alphabetic_share(text: str, share: float) -> None:
    assert alphabetic_share(text) == share


@pytest.mark.parametrize(
    ("text", "share"),
    [("a\nb\nc", 0.0), ("ab\n  ab  \ncdef", 0.25), ("x\nx\nx\nx", 0.75), ("", 0.0), ("\n\n\n", 0.0)],
)
def test_duplicate_line_share(text: str, share: float) -> None:
    assert duplicate_line_share(text) == share


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=20), st.integers(1, 4))
def test_top_ngram_share_is_what_counting_gives(words: list[str], length: int) -> None:
    runs = Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
    most = max(runs.values(), default=0)
    expected = 0.0
    if most > 1:
        longest = max(len("".join(run)) for run, count in runs.items() if count == most)
        expected = min(1.0, most * longest / len("".join(words)))
    assert top_ngram(words, length)[1] == expected


def test_top_ngram_ignores_case_and_what_occurs_once() -> None:
    verdict = judge("To be or not to be", FilterConfig(max_top_ngram=[0.6]))
    assert verdict is not None
    assert verdict.detail == f"{2 * 4 / 13:.3f} is 'to be', over 0.6"
    assert top_ngram(["one", "two", "three"], 2) == ((), 0.0)


@pytest.mark.parametrize(
    ("config", "text", "reason"),
    [
        (FilterConfig(min_characters=5), "four", "min_characters"),
        (FilterConfig(min_characters=4), "four", None),
        (FilterConfig(max_characters=4), "fiver", "max_characters"),
        (FilterConfig(max_characters=5), "fiver", None),
        (FilterConfig(min_alphabetic=0.6), "ab12", "min_alphabetic"),
        (FilterConfig(min_alphabetic=0.5), "ab12", None),
        (FilterConfig(max_duplicate_lines=0.4), "ab\nab", "max_duplicate_lines"),
        (FilterConfig(max_duplicate_lines=0.5), "ab\nab", None),
        (FilterConfig(max_top_ngram=[0.5]), "a b a b c d", "max_top_ngram"),
        (FilterConfig(max_top_ngram=[0.7]), "a b a b c d", None),
        (FilterConfig(max_top_ngram=[1.0, 0.5]), "a b c a b c", "max_top_ngram"),
        (FilterConfig(), "", None),
    ],
)
def test_thresholds(config: FilterConfig, text: str, reason: str | None) -> None:
    verdict = judge(text, config)
    assert (verdict.reason if verdict else None) == reason


def test_details_name_what_was_found_and_allowed() -> None:
    verdict = judge("buy now buy now buy now", FilterConfig(max_top_ngram=[0.2]))
    assert verdict is not None
    assert verdict.detail == "1.000 is 'buy now', over 0.2"


CONFIG = FilterConfig(min_characters=20, min_alphabetic=0.8, max_top_ngram=[0.3], max_duplicate_lines=0.3)
CORPUS = [
    Document(PROSE, "a.txt"),
    Document("short", "b.txt"),
    Document("| 1 | 2 | 3 | 4 | 5 |\n" * 3, "c.txt"),
    Document("tiny", "d.txt"),
    Document("click here to go on, " * 9, "e.txt"),
    Document("puny", "f.txt"),
    Document("wee", "g.txt"),
]


def test_kept_and_dropped_make_up_the_corpus() -> None:
    report = DropReport(example_limit=2)
    kept = passing(CORPUS, CONFIG, report)
    assert kept == CORPUS[:1]
    assert {reason: dropped.items for reason, dropped in report.reasons.items()} == {
        "min_characters": 4,
        "min_alphabetic": 1,
        "max_top_ngram": 1,
    }
    assert report.documents_seen == 7
    assert report.documents_kept == 1
    assert report.characters_seen == sum(len(document.text) for document in CORPUS)
    assert report.characters_kept + sum(entry.characters for entry in report.reasons.values()) == report.characters_seen
    assert [example.source for example in report.reasons["min_characters"].examples] == ["b.txt", "d.txt"]


@pytest.mark.parametrize("cut", range(len(CORPUS) + 1))
def test_reports_of_parts_add_up(cut: int) -> None:
    whole, first, second = (DropReport() for _ in range(3))
    passing(CORPUS, CONFIG, whole)
    passing(CORPUS[:cut], CONFIG, first)
    passing(CORPUS[cut:], CONFIG, second)
    first.merge(DropReport.from_json(json.loads(json.dumps(second.to_json()))))
    assert first == whole


def test_report_for_people() -> None:
    report = DropReport()
    passing(CORPUS, CONFIG, report)
    lines = list(report.lines())
    assert lines[0].startswith("kept 1 of 7 document(s), ")
    assert "  b.txt: 5 character(s), under 20: short" in lines
    report.drop("long", "x", "word " * 1000, "why")
    assert len(report.reasons["long"].examples[0].excerpt) == EXCERPT_CHARACTERS


@pytest.mark.parametrize("wrong", [{"min_characters": 9, "max_characters": 5}, {"max_top_ngram": [0.0]}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(reversed(wrong)))):
        FilterConfig.model_validate(wrong)


def test_real_prose_passes_and_its_contents_page_does_not(assets: Path) -> None:
    stories = (assets / "tinystories" / "v2_train_head_1.4MB.txt").read_text("utf-8").split("<|endoftext|>")
    documents = [Document(story.strip(), str(number)) for number, story in enumerate(stories[:300])]
    gopher = FilterConfig(
        min_characters=100, min_alphabetic=0.8, max_top_ngram=[0.2, 0.18, 0.16], max_duplicate_lines=0.2
    )
    kept = passing(documents, gopher, DropReport())
    assert len(kept) >= 0.97 * len(documents)
    table = "\n".join(f"{number}. .......... {number * 7}" for number in range(50))
    verdict = judge(table, gopher)
    assert verdict is not None
    assert verdict.reason == "min_alphabetic"
