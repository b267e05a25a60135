from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.evaluate import Plan, evaluate_run
from jslm.evaluate.__main__ import main
from jslm.evaluate.chart import Panel, bars
from jslm.evaluate.report import as_json, chart, markdown
from jslm.evaluate.text_loss import split_loss, text_digest, text_loss
from jslm.infer import load
from jslm.tokenizer import ByteTokenizer, CharTokenizer


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compilation cache in the home folder."""
    monkeypatch.setenv("JSLM_COMPILATION_CACHE", "off")
    yield
    logging.getLogger("jslm").setLevel(logging.NOTSET)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    pair = {"sentence_good": "A cat runs.", "sentence_bad": "A cat run."}
    (folder / "blimp_x.jsonl").write_text(json.dumps(pair), "utf-8")
    (folder / "rewrite.jsonl").write_text('{"prompt": "a", "completion": "b|c", "category": "one"}', "utf-8")
    (folder / "text.txt").write_text("The cat saw the café. " * 5, "utf-8")
    return folder


def test_the_val_split_is_the_default(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [record] = report["runs"]
    expected = split_loss(load(run), data, "val").record()
    found = record["losses"]["val split"]
    assert found.pop("seconds") >= 0
    assert found == expected
    assert (record["name"], record["step"], record["context_length"]) == ("tiny", 7, 32)


def test_all_at_once(
    run: Path, files: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (the extra eval)")
    text = files / "text.txt"
    tasks = ["--tasks", "blimp,rewrite", "--tasks", "samples", "--task-dir", str(files), "--num-samples", "3"]
    arguments = ["--run", str(run), "--split", "train", "--text", str(text), *tasks, "--stride", "4"]
    assert main([*arguments, "--out", str(files / "out")]) == 0
    printed = capsys.readouterr()
    written = json.loads((files / "out" / "evaluation.json").read_text("utf-8"))
    [record] = written["runs"]
    loss = text_loss(load(run), text.read_text("utf-8"), stride=4)
    assert record["losses"][str(text)]["bits_per_byte"] == loss.bits_per_byte
    assert record["losses"]["train split"]["stride"] == 4
    assert record["tasks"]["blimp"]["items"] == 1
    assert record["samples"]["samples"] == 3
    assert printed.out == (files / "out" / "evaluation.md").read_text("utf-8")
    for line in (
        f"| bits per byte | {loss.bits_per_byte:.4f} |",
        "| step of the checkpoint | 7 |",
        "| longest copy (tokens) | 0 |",
    ):
        assert line in printed.out
    # A bar in a text must not end its cell.
    assert "| one | a | b\\|c | " in printed.out
    assert "blimp: 1 items" in caplog.text
    assert not (files / "out" / "comparison.svg").exists()


def test_several_models_side_by_side(run: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--run", str(run), "--run", f"{run}/"]
    arguments = [*runs, "--text", str(files / "text.txt"), "--tasks", f"blimp={files}", "--out", str(files / "out")]
    assert main(arguments) == 0
    page = capsys.readouterr().out
    # Equal names are told apart by their paths; of equal figures none is the best.
    assert f"|  | {run} | {run}/ |" in page
    assert "**" not in page
    drawing = ElementTree.parse(files / "out" / "comparison.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert "![bars of the main figures of each model](comparison.svg)" in (files / "out/evaluation.md").read_text()


def record(name: str, bits: float, accuracy: float, fingerprint: str = "f", text: str = "t") -> dict[str, Any]:
    loss = {"bits_per_byte": bits, "bits_per_character": bits, "loss": bits, "perplexity": float("inf"), "tokens": 9}
    loss["text_sha256"] = text  # type: ignore[assignment]
    task = {"items": 100, "accuracy": accuracy, "stderr": 0.05, "accuracy_normalized": accuracy, "chance": 0.25}
    return {
        "name": name, "source": name, "parameters": 10, "context_length": 8, "dtype": "float32",
        "tokenizer": {"kind": "byte", "vocab_size": 257, "fingerprint": fingerprint},
        "losses": {"t": loss}, "tasks": {"hellaswag": task},
    }  # fmt: skip


def test_the_best_of_each_row_is_bold() -> None:
    runs = [record("a", 1.5, 0.3), record("b", 1.2, 0.2, "g")]
    report = {"jslm": "0", "date": "today", "device": "cpu", "runs": runs}
    page = markdown(report)
    assert "| bits per byte | 1.5000 | **1.2000** |" in page
    assert "| accuracy, a character | **30.0% ± 4.6** | 20.0% ± 4.0 |" in page
    assert "| perplexity (a token) | inf | inf |" in page
    assert "on the same text: the fewest bits per byte are in bold. The tokenizers differ: loss and perplexity" in page
    # The same figures a token and a character: the one that holds for all tokenizers is marked.
    assert "| loss (nats a token) | 1.5000 | 1.2000 |" in page
    assert json.loads(as_json(report))["runs"][0]["losses"]["t"]["perplexity"] is None
    runs[1]["tasks"] = {}
    assert "| accuracy | 30.0% ± 5.0 |  |" in markdown(report)
    assert ElementTree.fromstring(chart(report)) is not None


def test_different_texts_have_no_winner() -> None:
    runs = [record("a", 1.5, 0.3), record("b", 1.2, 0.2, text="u")]
    report = {"jslm": "0", "date": "today", "device": "cpu", "runs": runs}
    page = markdown(report)
    assert "| bits per byte | 1.5000 | 1.2000 |" in page
    assert "different texts, and no figure here compares them: their cleaners or line breaks differ." in page
    for run in runs:
        run["losses"] = {"val split": run["losses"]["t"]}
    assert "compares them: `--text FILE` measures all on one." in markdown(report)
    for run in runs:
        run["losses"] = {"t": run["losses"]["val split"]}
    assert "| accuracy, a character | **30.0% ± 4.6** | 20.0% ± 4.0 |" in page
    assert "bits per byte" not in chart(report)
    # A model that leaves out characters has fewer to tell.
    runs[1]["losses"]["t"] |= {"text_sha256": "t", "unknown_characters": 3}
    page = markdown(report)
    assert "| bits per byte | 1.5000 | 1.2000 |" in page
    assert "Tokenizers do not know all characters of the text" in page
    # One model has nothing to be compared with.
    assert "compare" not in markdown(report | {"runs": runs[:1]})


def test_copies_compare_in_one_corpus_and_tokenizer() -> None:
    copies = {"longest_tokens": 9, "longest_characters": 30, "median_tokens": 8, "mean_share": 0.1, "least_tokens": 8}
    samples = {"distinct": {"1": 0.5}, "repetition": 0.1, "ended": 1.0, "mean_tokens": 5.0, "samples": 2}
    runs = [record("a", 1.5, 0.3), record("b", 1.5, 0.3)]
    for run, longest, training in zip(runs, (9, 8), ("x", "x"), strict=True):
        run["samples"] = samples | {"copies": copies | {"longest_tokens": longest, "training_sha256": training}}
    report = {"jslm": "0", "date": "today", "device": "cpu", "runs": runs}
    assert "| longest copy (tokens) | 9 | **8** |" in markdown(report)
    runs[1]["tokenizer"] = {**runs[1]["tokenizer"], "fingerprint": "g"}
    page = markdown(report)
    assert "| longest copy (tokens) | 9 | 8 |" in page
    assert "They compare between models of one corpus and one tokenizer, which these are not." in page


def test_texts_are_told_apart_whatever_tokenizer_reads_them(data: Path, run: Path) -> None:
    """The same text in other tokens has the same digest, another text another, with prompts and without."""
    text = "The dog saw the café."
    bytewise, chars = ByteTokenizer(), CharTokenizer.train([text])
    streams = [np.array([*one.encode(text), one.eot_id]) for one in (bytewise, chars)]
    assert len(streams[0]) != len(streams[1])
    digests = [text_digest(one, [ids]) for one, ids in zip((bytewise, chars), streams, strict=True)]
    assert digests[0] == digests[1] == hashlib.sha256(text.encode()).hexdigest()
    assert text_digest(bytewise, [streams[0][1:]]) != digests[0]
    assert text_digest(bytewise, [streams[0], streams[0][3:]]) != digests[0]
    model = load(run)
    assert text_loss(model, text).text_sha256 == digests[0]
    assert split_loss(model, data, "val").text_sha256 != split_loss(model, data, "train").text_sha256


def test_bars_are_in_proportion() -> None:
    drawing = bars(["one", "a<b"], [Panel("T", "higher", [1.0, 2.0], ["1", "2"], [0.0, 0.0], 1.0)])
    root = ElementTree.fromstring(drawing)
    widths = [float(rect.attrib["width"]) for rect in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"T", "one", "a<b", "1", "2", "chance"} <= set(texts)
    assert bars(["one"], []) == ""


def test_any_format_that_convert_reads(assets: Path) -> None:
    model = assets / "checkpoints" / "stories260K" / "stories260K.bin"
    texts = (assets / "tinystories" / "v2_valid_head_0.8MB.txt",)
    questions = evaluate_run(model, Plan(split=None, texts=()), name="s")
    assert (questions["parameters"], questions["losses"]) == (260_032, {})
    head = texts[0].read_text("utf-8")[:3000]
    # Trained on such stories: uniform would be 9 bits a token.
    assert text_loss(load(model), head).bits_per_byte < 1.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "blmp"], "--tasks 'blmp': no such task; did you mean blimp? There are blimp, lambada"),
        (["--tasks", "arc=none"], "--tasks arc=none: none: expected a file, a folder or a pattern"),
        (["--split", "test"], "--split test: expected train or val"),
        (["--text", "none.txt"], "--text none.txt: no such file; expected a UTF-8 text file"),
        (["--text", "."], "--text .: not a file"),
        (["--text", "/dev/null"], "--text /dev/null: not a file"),
        (["--stride", "33"], "--stride 33: expected from 1 to the model's context of 32 tokens"),
        (["--limit", "-1"], "--limit -1: expected 0 or more"),
        (["--num-samples", "0"], "--num-samples 0: expected 1 or more"),
        (["--data", "nowhere"], "nowhere/meta.json: not found"),
        (["--run", "nowhere"], "--run nowhere: no such run folder or model file"),
        (["model.d_model=8"], "command line: model.d_model is fixed once a model is trained"),
        (["--checkpoint", "9"], "no checkpoint '9'; there are best, latest, 7"),
    ],
)
def test_bad_input_is_one_line(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = [line for line in said.err.splitlines() if "INFO" not in line]
    assert line.startswith("jslm evaluate: error: ")
    assert message in line


def test_empty_text_is_told_before_the_model_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").touch()
    assert main(["--run", "nowhere", "--text", str(tmp_path / "empty.txt")]) == 2
    assert "empty.txt: empty; expected text" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from jslm.evaluate.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('jax', 'numpy', 'flax', 'orbax', 'sacrebleu') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hellaswag" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"
