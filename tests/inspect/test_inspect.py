"""`jslm inspect`: counts against naive ones, masks shown as the loader gives them, hostile text made harmless."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.inspect.__main__ import main
from jslm.inspect.batch import ShownBatch, explain_batch, runs, show_batch
from jslm.inspect.facts import collect_facts, length_histogram
from jslm.inspect.page import page
from jslm.inspect.terminal import batch_lines, fact_lines, visible
from jslm.tokenizer import ByteTokenizer, Tokenizer
from jslm.tokens.loader import TrainLoader
from jslm.tokens.token_file import TokenWriter

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["The cat sat.\nIt slept.", "A <b>dog</b> & a hen.", "Ünïcode: 猫!", "end"]


def prepared(folder: Path, train: list[str], val: list[str], tokenizer: Tokenizer | None = None) -> Path:
    """A folder as prepare writes it, of documents closed by the end-of-text token."""
    tokenizer = tokenizer or ByteTokenizer()
    with TokenWriter(folder, tokenizer.vocab_size) as writer:
        for split, texts in (("train", train), ("val", val)):
            for text in texts:
                ids = [*tokenizer.encode(text), tokenizer.eot_id]
                writer.append(split, ids, characters=len(text), utf8_bytes=len(text.encode()))  # type: ignore[arg-type]
        tokenizer.save(writer.partial / "tokenizer.json")
        fields: dict[str, Any] = {
            "tokenizer": {
                "kind": "byte",
                "fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
            },
            "sources": ["some <i>book</i>.txt"],
            "end_of_text": True,
        }
        writer.commit(fields, ["tokenizer.json"])
    return folder


class Reader(HTMLParser):
    """Text, tags and the titles of a page; fails where tags don't nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.classes: Counter[str] = Counter()
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attributes)
        self.titles += [given["title"] or ""] if "title" in given else []
        self.classes.update((given.get("class") or "").split())
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open and self.open[-1] == "style" else data


def test_facts_are_what_counting_gives(tmp_path: Path) -> None:
    facts = collect_facts(prepared(tmp_path, TRAIN, ["val text"]), frequent=5, samples=10)
    train, val = facts.splits
    tokenizer = facts.tokenizer
    ids = [token for text in TRAIN for token in [*text.encode(), tokenizer.eot_id]]
    assert (train.documents, train.tokens, train.distinct_tokens) == (4, len(ids), len(set(ids)))
    assert train.utf8_bytes == sum(len(text.encode()) for text in TRAIN)
    assert train.bytes_per_token == train.utf8_bytes / train.tokens
    expected = sorted(Counter(ids).items(), key=lambda entry: (-entry[1], entry[0]))[:5]
    assert [(entry.token, entry.count) for entry in train.frequent] == expected
    lengths = [len(text.encode()) + 1 for text in TRAIN]
    assert train.lengths["shortest"] == min(lengths)
    assert train.lengths["longest"] == max(lengths)
    assert train.lengths["mean"] == sum(lengths) / 4
    assert [sample.text for sample in train.samples] == [f"{text}<|endoftext|>" for text in TRAIN]
    assert (val.documents, val.tokens) == (1, 9)


def test_samples_are_chosen_by_seed_and_cut(tmp_path: Path) -> None:
    folder = prepared(tmp_path, [f"{number} " * 300 for number in range(50)], [])
    chosen = [
        [sample.number for sample in collect_facts(folder, samples=3, seed=seed).splits[0].samples]
        for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    facts = collect_facts(folder, samples=3)
    assert not any(sample.is_whole for sample in facts.splits[0].samples)
    assert sum(line.endswith(" […]") for line in fact_lines(facts, color=False)) == 3
    assert facts.splits[1].lengths == {}
    assert facts.splits[1].histogram == []


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_histogram_holds_every_document_once(lengths: list[int]) -> None:
    buckets = length_histogram(np.array(lengths))
    assert [bucket.documents for bucket in buckets] == [
        sum(bucket.low <= length <= bucket.high for length in lengths) for bucket in buckets
    ]
    assert sum(bucket.documents for bucket in buckets) == len(lengths)
    assert buckets[0].documents
    assert buckets[-1].documents
    assert all(after.low == before.high + 1 for before, after in itertools.pairwise(buckets))
    assert len(buckets) <= 20


def test_histogram_of_like_lengths_is_finer_than_powers_of_two() -> None:
    buckets = length_histogram(np.arange(150, 240))
    assert [(bucket.low, bucket.high) for bucket in buckets[:2]] == [(150, 154), (155, 159)]
    assert [(bucket.low, bucket.high) for bucket in length_histogram(np.array([1, 6, 8]))] == [
        (1, 1),
        (2, 3),
        (4, 7),
        (8, 15),
    ]


def test_a_batch_of_windows_is_explained(tmp_path: Path) -> None:
    facts = collect_facts(prepared(tmp_path, ["abc"], []))
    shown = show_batch(facts.splits[0], "windows", context_length=5, rows=1)
    assert [(place.token, place.target, place.kind) for place in shown.rows[0]] == [
        (97, 98, "text"),
        (98, 99, "text"),
        (99, 256, "text"),
        (0, None, "padding"),
        (0, None, "padding"),
    ]
    assert list(batch_lines(shown, facts.tokenizer, color=False))[-2:] == [
        "--- row 0: 3 target(s), 0 masked, 2 padding",
        "abc⟦<padding: 2>⟧",
    ]


def test_a_batch_is_the_loaders(tmp_path: Path) -> None:
    facts = collect_facts(prepared(tmp_path, TRAIN * 20, []))
    for packing in ("windows", "documents"):
        shown = show_batch(facts.splits[0], packing, context_length=16, rows=4, seed=3, step=5)
        loader = TrainLoader(
            facts.splits[0].file, context_length=16, batch_size=4, seed=3, start_step=5, packing=packing
        )
        batch = next(loader)
        loader.close()
        assert [[place.token for place in row] for row in shown.rows] == batch["inputs"].tolist()
        targets = [[-1 if place.target is None else place.target for place in row] for row in shown.rows]
        assert targets == batch["targets"].tolist()


def packed(tmp_path: Path) -> tuple[ShownBatch, Tokenizer]:
    facts = collect_facts(prepared(tmp_path, ["cats", "do\ng"], []))
    return show_batch(facts.splits[0], "documents", context_length=12, rows=1), facts.tokenizer


def test_packed_documents_are_told_apart_by_marks_or_colors(tmp_path: Path) -> None:
    shown, tokenizer = packed(tmp_path)
    assert [[place.segment for place in run] for run in runs(shown.rows[0])] == [[1] * 5, [2] * 5, [0] * 2]
    plain = "\n".join(batch_lines(shown, tokenizer, color=False))
    assert "«1»<|endoftext|>cats«2»<|endoftext|>do↵\ng⟦<padding: 2>⟧" in plain
    assert "\x1b" not in plain
    colored = "\n".join(batch_lines(shown, tokenizer, color=True))
    assert "\x1b[36m<|endoftext|>cats\x1b[0m\x1b[33m<|endoftext|>do↵\ng\x1b[0m\x1b[2m<padding: 2>\x1b[0m" in colored


def test_masked_prompts_are_seen_but_never_a_loss() -> None:
    """Prompt and completion: targets of -1 before the completion, real inputs, no padding among them."""
    batch = {
        "inputs": np.array([[0, 98, 99, 100, 0, 0]], np.int32),
        "targets": np.array([[-1, -1, 100, 101, -1, -1]], np.int32),
    }
    rows = explain_batch(batch)
    assert [place.kind for place in rows[0]] == ["masked", "masked", "text", "text", "padding", "padding"]
    shown, tokenizer = ShownBatch("windows", 0, 6, rows), ByteTokenizer()
    assert list(batch_lines(shown, tokenizer, color=False))[-1] == "⟦\N{REPLACEMENT CHARACTER}b⟧cd⟦<padding: 2>⟧"
    assert "\x1b[2m\N{REPLACEMENT CHARACTER}b\x1b[0mcd" in list(batch_lines(shown, tokenizer, color=True))[-1]
    batch["segments"] = np.array([[1, 1, 1, 1, 0, 0]], np.int32)
    assert explain_batch(batch)[0][0].kind == "masked"
    assert (
        "\x1b[36;2m"
        in list(batch_lines(ShownBatch("documents", 0, 6, explain_batch(batch)), tokenizer, color=True))[-1]
    )


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    hostile = '</pre><script>alert("x")</script>\x1b[31m & \u202e <img src=http://x>'
    facts = collect_facts(prepared(tmp_path / "<a>", [hostile, *TRAIN], ["v"]))
    batches = [show_batch(facts.splits[0], kind, context_length=300, rows=1) for kind in ("windows", "documents")]
    source = page(facts, batches)
    read = Reader(source)
    assert read.open == []
    assert not read.tags & {"script", "img", "b", "link"}
    assert not re.search(r"(src|href)=|url\(|@import", re.sub(r"&lt;.*?&gt;", "", source))
    assert '</pre><script>alert("x")</script>\N{REPLACEMENT CHARACTER}[31m' in read.text
    assert not set(source) & {"\x1b", "\u202e"}
    assert "prefers-color-scheme: dark" in source
    places = [place for shown in batches for row in shown.rows for place in row if place.kind != "padding"]
    assert read.classes["token"] == len(places) == len(read.titles)
    assert read.classes["s1"] == sum(place.segment % 6 == 1 for place in places)
    assert any("target 256 '<|endoftext|>'" in title for title in read.titles)


def test_escape_sequences_are_shown_and_not_obeyed() -> None:
    assert visible("a\x1b[31mb\r\u202ec\td\ne") == "a�[31mb��c\td\ne"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepared(tmp_path / "run" / "data", TRAIN, [])
    html = tmp_path / "page.html"
    # A folder around the data does as well.
    assert main([str(tmp_path / "run"), "--html", str(html), "--context-length", "16"]) == 0
    out = capsys.readouterr().out
    assert f"{folder}: byte of 257 entries" in out
    assert re.search(r"^train +4 ", out, re.MULTILINE)
    assert "data.packing = windows, 2 row(s) of 16" in out
    assert "data.packing = documents, 2 row(s) of 16" in out
    assert "\x1b" not in out
    assert Reader(html.read_text("utf-8")).open == []
    assert main([str(folder), "--batch", "--packing", "windows", "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "most frequent" not in out
    assert out.count("--- row") == 1


def test_a_token_is_shown_as_it_is_spelled(tmp_path: Path) -> None:
    lines = list(fact_lines(collect_facts(prepared(tmp_path, ["aaa"], []), frequent=1), color=False))
    assert "             3  75.00%       97 'a'" in lines


def run_folder(path: Path, config: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text(config, "utf-8")
    return path


def test_a_run_shows_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = 'seed = 7\ndata.packing = "documents"\nmodel.context_length = 12\n'
    prepared(Path("prepared", "mine"), TRAIN, [])
    run = run_folder(Path("runs", "mine"), settings + 'data.dir = "prepared/mine"\n')
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "prepared/mine: byte of 257 entries" in out
    # As the run has them, where nothing is said.
    assert re.findall(r"data.packing = .*", out) == ["data.packing = documents, 2 row(s) of 12"]
    assert main(["prepared/mine", "--seed", "7", "--packing", "documents", "--context-length", "12"]) == 0
    assert capsys.readouterr().out == out
    # A run that holds its data, and was moved since.
    prepared(Path("runs", "old", "data"), TRAIN, [])
    Path("runs", "old", "config.toml").write_text('run_dir = "runs/elsewhere"\n', "utf-8")
    assert main(["runs/old", "--context-length", "5"]) == 0
    assert "runs/old/data: byte" in (out := capsys.readouterr().out)
    assert "2 row(s) of 5" in out


def test_a_run_on_a_mixture_shows_each_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        prepared(Path(name), TRAIN, [])
    run = run_folder(Path("run"), 'data.mixture = [{dir = "one", weight = 1}, {dir = "two", weight = 3}]\n')
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if "fingerprint" in line] == ["one", "two"]
    assert main([str(run), "--html", "page.html"]) == 2
    assert "trained on 2; give one of their folders: one, two" in capsys.readouterr().err
    assert main(["two", "--html", "page.html"]) == 0


def test_a_run_whose_data_is_gone_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(Path("kept"), TRAIN, [])
    run = run_folder(Path("run"), 'data.dir = "kept"\n')
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert main([f"../{run}"]) == 2
    error = capsys.readouterr().err
    assert "../run: its data was prepared in kept, and there is none there, seen from" in error
    # Both ways out that it names.
    assert main(["../kept"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 0


def test_a_corpus_of_one_token_has_no_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(prepared(tmp_path, [""], []))]) == 0
    assert "--- row" not in capsys.readouterr().out
    assert main([str(prepared(tmp_path, [], []))]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "neither prepared data (no meta.json) nor a run (no config.toml)"),
        (["file"], "file: is a file; give the folder"),
        (["good", "--rows", "0"], "--rows 0: expected 1 or more"),
        (["cut"], "train.bin: expected 130 bytes, found 60"),
        (["other"], "the tokens were made with tokenizer"),
        (["bare"], "tokenizer.json"),
        (["good", "--html", "file/page.html"], "page.html: cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x", "utf-8")
    for name in ("good", "cut", "other", "bare"):
        prepared(Path(name), TRAIN, [])
    with Path("cut", "train.bin").open("r+b") as file:
        file.truncate(60)
    ByteTokenizer(["<|other|>"]).save("other/tokenizer.json")
    Path("bare", "tokenizer.json").unlink()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_help_is_quick_to_import() -> None:
    """Neither the loader's library nor JAX is there before it is needed."""
    program = (
        "import sys\nfrom jslm.inspect.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'jax', 'grain', 'rensa', 'tokenizers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JSLM_HUGE_PAGES": "off"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")
