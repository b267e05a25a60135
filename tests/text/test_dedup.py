"""Deduplication: what is found is what exact comparison of sets finds; hashes only in memory; order and parts."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.errors import JslmError
from jslm.text import dedup
from jslm.text.dedup import (
    DedupConfig,
    DocumentIndex,
    count_lines,
    fingerprint,
    remove_repeated_lines,
)
from jslm.text.documents import Document
from jslm.text.dropped import DropReport
from jslm.text.line_counts import LineCounts, line_hash

VOCABULARY = [f"word{number}" for number in range(2000)]


def texts(*lines: str) -> list[Document]:
    return [Document(line, f"doc{number}") for number, line in enumerate(lines)]


def kept(documents: Sequence[Document], config: DedupConfig) -> tuple[list[str], DropReport]:
    report, index = DropReport(), DocumentIndex(config)

    def stays(document: Document) -> bool:
        return report.judge(document, index.add(fingerprint(document.text, config), document.source))

    return [document.source for document in documents if stays(document)], report


def jaccard(left: str, right: str, words: int = 5) -> float:
    def runs(text: str) -> set[tuple[str, ...]]:
        split = text.split()
        return {tuple(split[at : at + words]) for at in range(len(split) - words + 1)}

    a, b = runs(left), runs(right)
    return len(a & b) / len(a | b)


def random_text(rng: random.Random, words: int = 200) -> list[str]:
    return [rng.choice(VOCABULARY) for _ in range(words)]


def test_exact_ignores_case_and_white_space_only() -> None:
    documents = texts("One fox.", "one  FOX.\n", "One fox!", "Two foxes.", "One\tfox.")
    sources, report = kept(documents, DedupConfig(exact=True))
    assert sources == ["doc0", "doc2", "doc3"]
    assert report.reasons["exact"].items == 2
    assert [example.source for example in report.reasons["exact"].examples] == ["doc1", "doc4"]
    assert report.documents_seen == 5
    assert report.documents_kept == 3


def test_everything_is_off_by_default() -> None:
    documents = texts("same", "same", "", "")
    assert kept(documents, DedupConfig())[0] == ["doc0", "doc1", "doc2", "doc3"]


def test_near_finds_edited_copies_and_says_of_what() -> None:
    rng = random.Random(0)
    documents, expected = [], []
    for number in range(60):
        original = random_text(rng)
        copy = list(original)
        copy[rng.randrange(len(copy))] = "changed"
        documents += [Document(" ".join(original), f"original {number}"), Document(" ".join(copy), f"copy {number}")]
        expected.append(f"original {number}")
    sources, report = kept(documents, DedupConfig(near=0.8))
    assert sources == expected
    assert report.reasons["near"].items == 60
    assert report.reasons["near"].examples[0].detail == "at least 0.8 like original 0"


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_near_agrees_with_exact_comparison_away_from_the_threshold(threshold: float) -> None:
    rng = random.Random(1)
    config = DedupConfig(near=threshold)
    wrong: list[tuple[float, bool]] = []
    clear = Counter[bool]()
    for _ in range(200):
        original = random_text(rng)
        copy = list(original)
        for _ in range(int(60 * rng.random() ** 2)):
            copy[rng.randrange(len(copy))] = rng.choice(VOCABULARY)
        similarity = jaccard(" ".join(original), " ".join(copy))
        dropped = len(kept(texts(" ".join(original), " ".join(copy)), config)[0]) == 1
        # Sketches of 128 values estimate to 0.044 (one standard deviation) at most: 3 of these are left out.
        if abs(similarity - threshold) > 0.13:
            clear[similarity > threshold] += 1
            if dropped != (similarity > threshold):
                wrong.append((similarity, dropped))
    assert wrong == []
    assert clear[False] >= 30
    assert clear[True] >= 20 or threshold == 0.9


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_what_is_at_the_threshold(threshold: float) -> None:
    bands = dedup._bands(threshold)
    rows = 128 // bands
    assert bands * rows == 128
    draws = np.random.default_rng(0).random((4000, bands, rows)) < threshold
    assert draws.all(axis=2).any(axis=1).mean() >= 0.98


def test_unrelated_short_texts_stay() -> None:
    documents = texts(
        "Yes.", "No.", "!!!", "???", "", "The end.", "three words here", "\ud800", "七転び八起き", "猿も木から落ちる"
    )
    assert len(kept(documents, DedupConfig(near=0.8, exact=True))[0]) == len(documents)


def test_scripts_without_spaces_are_compared_too() -> None:
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    text += "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
    assert kept(texts(text, text.replace("記憶", "記録")), DedupConfig(near=0.7))[0] == ["doc0"]


def test_result_depends_on_documents_alone() -> None:
    """Another process, with another hash seed and an index of its own, keeps the same documents."""
    program = (
        "import random, json\n"
        "from jslm.text.dedup import DedupConfig, DocumentIndex, fingerprint\n"
        "from jslm.text.documents import Document\n"
        "from jslm.text.dropped import DropReport\n"
        "rng = random.Random(5)\n"
        "words = [' '.join(rng.choices([f'w{i}' for i in range(12)], k=30)) for _ in range(40)]\n"
        "docs = [Document(rng.choice(words) + rng.choice(['', ' x', ' y z']), str(n)) for n in range(200)]\n"
        "config, report = DedupConfig(exact=True, near=0.75), DropReport()\n"
        "index = DocumentIndex(config)\n"
        "verdicts = [index.add(fingerprint(d.text, config), d.source) for d in docs]\n"
        "kept = [d.source for d, verdict in zip(docs, verdicts) if report.judge(d, verdict)]\n"
        "print(json.dumps([kept, report.to_json()]))\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    sources, report = json.loads(runs.pop())
    assert 40 <= len(sources) < 100
    assert set(report["reasons"]) == {"exact", "near"}


def test_fingerprints_travel_between_processes() -> None:
    """Made in workers, in any order, and compared in the order of the documents."""
    config = DedupConfig(exact=True, near=0.8)
    rng = random.Random(2)
    documents = [Document(" ".join(random_text(rng, 40)), str(number)) for number in range(20)]
    documents += [Document(document.text + " more", f"again {document.source}") for document in documents]
    sent = [pickle.loads(pickle.dumps(fingerprint(document.text, config))) for document in documents]
    index = DocumentIndex(config)
    verdicts = [index.add(found, document.source) for found, document in zip(sent, documents, strict=True)]
    assert [verdict is None for verdict in verdicts] == [True] * 20 + [False] * 20
    assert verdicts[20] is not None
    assert verdicts[20].detail == "at least 0.8 like 0"


def test_without_the_library_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(JslmError, match=r"data\.dedup\.near needs the package rensa.*pip install -e '/.*\[data\]'"):
        kept(texts("a"), DedupConfig(near=0.8))
    assert kept(texts("a"), DedupConfig(exact=True))[0] == ["doc0"]


def lines_removed(documents: Sequence[Document], config: DedupConfig) -> tuple[list[Document], DropReport]:
    report = DropReport()
    return list(remove_repeated_lines(documents, count_lines(documents, config), config, report)), report


def test_lines_in_many_documents_go_from_all_of_them() -> None:
    menu = "Home | About us | Contact"
    documents = texts(
        f"{menu}\n\nFirst story.\n\n{menu}", f"Second story.\n\n{menu.upper()}\n\nIts end.", "Third.", f"{menu}\n"
    )
    result, report = lines_removed(documents, DedupConfig(max_line_documents=2))
    assert [document.text for document in result] == ["First story.\n", "Second story.\n\nIts end.", "Third."]
    assert report.reasons["repeated_line"].items == 4
    assert report.reasons["only_repeated_lines"].items == 1
    assert report.reasons["only_repeated_lines"].examples[0].source == "doc3"
    assert lines_removed(documents, DedupConfig(max_line_documents=3))[0] == documents


def test_lines_that_occur_often_in_one_document_go() -> None:
    line = "This page is intentionally left blank."
    documents = texts("\n".join(["start", *[line] * 6, "end"]), "other")
    result, _ = lines_removed(documents, DedupConfig(max_line_occurrences=5))
    assert [document.text for document in result] == ["start\nend", "other"]
    assert lines_removed(documents, DedupConfig(max_line_occurrences=6))[0] == documents
    assert lines_removed(documents, DedupConfig(max_line_documents=1))[0] == documents


def test_short_and_blank_lines_stay_and_bits_go_with_a_line() -> None:
    long = "a line of more than twenty characters"
    documents = [Document(f"Yes.\n\n\nYes.\n{long}\nunique {number}", str(number), bits=8.0) for number in range(5)]
    documents.append(Document("alone", "5", bits=2.0))
    result, report = lines_removed(documents, DedupConfig(max_line_documents=1))
    assert [document.text for document in result[:5]] == [f"Yes.\n\n\nYes.\nunique {number}" for number in range(5)]
    assert [document.bits for document in result] == [None] * 5 + [2.0]
    assert report.documents_kept == 6


LINES = st.lists(st.lists(st.sampled_from(["one", "two", "three", "", "ONE "]), max_size=8), max_size=12)


@given(LINES, st.integers(0, 4), st.integers(0, 6), st.integers(0, 12))
def test_counts_are_what_counting_gives_whatever_the_parts(
    corpus: list[list[str]], max_documents: int, max_occurrences: int, cut: int
) -> None:
    counts, rest = LineCounts(0), LineCounts(0)
    for number, lines in enumerate(corpus):
        (counts if number < cut else rest).add("\n".join(lines))
    counts.merge(rest)
    normal = [[line.strip().lower() for line in lines if line.strip()] for lines in corpus]
    occurrences = Counter(line for lines in normal for line in lines)
    documents = Counter(line for lines in normal for line in set(lines))
    expected = {
        line_hash(line, 0)
        for line in occurrences
        if (max_documents and documents[line] > max_documents)
        or (max_occurrences and occurrences[line] > max_occurrences)
    }
    assert counts.frequent(max_documents, max_occurrences) == expected
    assert len(counts) == len(occurrences)


def test_counts_settle_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jslm.text.line_counts._SMALLEST_MERGE", 10)
    counts = LineCounts(0)
    for number in range(300):
        counts.add(f"line {number}\nline {number % 7}\ncommon")
    common = line_hash("common", 0)
    assert counts.frequent(299, 0) == {common}
    assert len(counts) == 301
    assert counts.frequent(40, 0) == {common, *(line_hash(f"line {number}", 0) for number in range(7))}


def test_counts_that_leave_out_different_lines_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="from 3 and from 4 characters"):
        LineCounts(3).merge(LineCounts(4))


def test_tinystories_versions_share_stories(assets: Path) -> None:
    documents = []
    for name in ("v1_train_head_2MiB.txt", "v2_train_head_1.4MB.txt"):
        text = (assets / "tinystories" / name).read_text("utf-8", errors="replace")
        documents += [
            Document(story.strip(), f"{name} {number}")
            for number, story in enumerate(text.split("<|endoftext|>"), start=1)
            if story.strip()
        ]
    sources, report = kept(documents, DedupConfig(exact=True, near=0.7))
    assert len(sources) == len(documents) - sum(dropped.items for dropped in report.reasons.values())
    assert report.reasons["exact"].items >= 1
    assert report.reasons["exact"].examples[0].source.startswith("v2_train")
