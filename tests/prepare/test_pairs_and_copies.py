"""Prompt/completion pairs and altered copies, from files to batches."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.inspect.__main__ import main as inspect
from jslm.prepare import PreparedData, prepare
from jslm.prepare import encode as encoding
from jslm.prompts.pairs import split_pair
from jslm.text.augment import augment, piece_rng
from jslm.tokens import open_tokens, verify
from jslm.tokens.loader import TrainLoader

silent: Callable[[str], None] = lambda message: None  # noqa: E731


def make_config(folder: Path, source: str | Path, kind: str = "char", workers: int = 1, **data: Any) -> Config:
    values = {
        "run_dir": str(folder),
        "data": {"source": str(source), "packing": "documents", "validation_fraction": 0.25} | data,
        "tokenizer": {"kind": kind, "vocab_size": 300},
        "prepare": {"workers": workers},
    }
    return config_from_dict(values, "test")


def pairs_of(prepared: PreparedData, split: Any) -> list[tuple[str, str]]:
    """Each document as the text of its prompt tokens and the text of the others."""
    file, decode = open_tokens(prepared.dir, split), prepared.tokenizer.decode
    assert file.prompts is not None
    found = []
    for start, stop, size in zip(file.offsets[:-1], file.offsets[1:], file.prompts, strict=True):
        ids = file.tokens[int(start) : int(stop)].tolist()
        assert ids[-1] == prepared.tokenizer.eot_id
        found.append((decode(ids[: int(size)]), decode(ids[int(size) : -1])))
    return found


def write_pairs(path: Path, count: int) -> list[tuple[str, str]]:
    choice = random.Random(count)
    pairs = [(f"say {number} " * choice.randint(1, 9), f"{number}" * choice.randint(1, 30)) for number in range(count)]
    path.write_text("".join(f"{prompt}\t{completion}\n" for prompt, completion in pairs), "utf-8")
    return pairs


@settings(deadline=None)
@given(st.text(max_size=20), st.text(min_size=1, max_size=3), st.text(max_size=20))
def test_a_pair_is_cut_after_the_first_end_of_its_prompt(before: str, end: str, after: str) -> None:
    prompt, completion = split_pair(before + end + after, end)
    assert prompt + completion == before + end + after
    assert prompt.endswith(end)
    assert end not in prompt[:-1]
    assert split_pair(before, "") == ("", before)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_lines_of_two_columns_become_masked_pairs(tmp_path: Path, kind: str) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv", 40)
    config = make_config(tmp_path / "a", tmp_path / "pairs.tsv", kind, format="text", separator="\n", prompt_end="\t")
    prepared = prepare(config, log=silent)
    found = {split: pairs_of(prepared, split) for split in ("train", "val")}
    assert sorted(found["train"] + found["val"]) == sorted((prompt + "\t", answer) for prompt, answer in pairs)
    assert len(found["val"]) == 10
    meta = verify(prepared.dir)
    assert meta["train"]["prompt_tokens"] == sum(len(prepared.tokenizer.encode(prompt)) for prompt, _ in found["train"])
    # All of it is learned once an epoch but the prompts.
    file = open_tokens(prepared.dir, "train")
    loader = TrainLoader(file, context_length=256, batch_size=1, seed=0, packing="documents")
    rows = [loader.batch_at(step)["targets"] for step in range(loader.examples_per_epoch)]
    learned = np.concatenate([row[row >= 0] for row in rows])
    encode = prepared.tokenizer.encode
    wanted = [token for _, answer in found["train"] for token in (*encode(answer), prepared.tokenizer.eot_id)]
    assert sorted(learned.tolist()) == sorted(wanted)


def test_records_with_a_template_give_the_same_files(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv", 40)
    lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(lines), "utf-8")
    columns: dict[str, Any] = {"format": "text", "separator": "\n"}
    first = prepare(make_config(tmp_path / "a", tmp_path / "pairs.tsv", prompt_end="\t", **columns), log=silent)
    records: dict[str, Any] = {"template": "{prompt}\t{completion}", "prompt_end": "\t"}
    second = prepare(make_config(tmp_path / "b", tmp_path / "pairs.jsonl", **records), log=silent)
    for name in ("train.bin", "train.idx", "train.prompts", "val.bin", "val.prompts"):
        assert (first.dir / name).read_bytes() == (second.dir / name).read_bytes(), name


def test_prompts_are_counted_across_tasks_and_parts_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "pairs.tsv", 60)
    columns: dict[str, Any] = {"format": "text", "separator": "\n", "prompt_end": "\t"}
    whole = prepare(make_config(tmp_path / "a", tmp_path / "pairs.tsv", **columns), log=silent)
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 7)
    monkeypatch.setattr(encoding, "PART_CHARACTERS", 50)
    for workers in (1, 2):
        folder = tmp_path / f"cut{workers}"
        cut = prepare(make_config(folder, tmp_path / "pairs.tsv", workers=workers, **columns), log=silent)
        for name in ("train.bin", "train.idx", "train.prompts", "val.prompts"):
            assert (cut.dir / name).read_bytes() == (whole.dir / name).read_bytes(), name


def test_the_rewriting_set_of_the_assets(assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = assets / "rewrite" / "passiv_en_nps.dev"
    config = make_config(tmp_path / "a", source, format="text", separator="\n", prompt_end="\t")
    prepared = prepare(config, log=silent)
    lines = [line.split("\t") for line in source.read_text("utf-8").splitlines()]
    found = pairs_of(prepared, "train") + pairs_of(prepared, "val")
    assert sorted(found) == sorted((prompt + "\t", answer) for prompt, answer in lines)
    assert inspect([str(prepared.dir), "--batch"]) == 0
    out = capsys.readouterr().out
    assert "data.packing = documents" in out
    assert "data.packing = windows" not in out


def test_a_document_without_two_parts_is_named_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\tb\nno completion here\n\nc\td\ne\tf\n", "utf-8")
    columns: dict[str, Any] = {"format": "text", "separator": "\n", "prompt_end": "\t"}
    config = make_config(tmp_path / "a", tmp_path / "pairs.tsv", **columns)
    with pytest.raises(JslmError, match=r"pairs\.tsv.*: no data\.prompt_end = '\\t' in .* 'no completion here'"):
        prepare(config, log=silent)
    values = config.model_dump()
    values["prepare"]["on_bad_document"] = "skip"
    prepared = prepare(config_from_dict(values, "test"), log=silent)
    assert prepared.meta["skipped"]["count"] == 1
    assert len(pairs_of(prepared, "train") + pairs_of(prepared, "val")) == 3


def test_damaged_prompts_are_found(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv", 20)
    columns: dict[str, Any] = {"format": "text", "separator": "\n", "prompt_end": "\t"}
    prepared = prepare(make_config(tmp_path / "a", tmp_path / "pairs.tsv", **columns), log=silent)
    file = prepared.dir / "train.prompts"
    counts = np.frombuffer(file.read_bytes(), "<u4").copy()
    counts[:2] += np.array([10_000, -10_000], np.int64).astype(np.uint32)
    file.write_bytes(counts.tobytes())
    with pytest.raises(JslmError, match=r"train\.prompts: expected .* prompt tokens inside their documents"):
        verify(prepared.dir)
    file.write_bytes(counts[1:].tobytes())
    with pytest.raises(JslmError, match=r"train\.prompts: expected 60 bytes, found 56"):
        open_tokens(prepared.dir, "train")


def test_copies_are_in_training_alone_and_resume_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Sentence {number} begins. Then Another comes! And Last." for number in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    copies: dict[str, Any] = {"copies": 2, "lowercase": 0.5, "drop_sentences": 0.3, "noise": 0.05}
    plain = prepare(make_config(tmp_path / "plain", tmp_path / "texts.jsonl"), log=silent)
    config = make_config(tmp_path / "a", tmp_path / "texts.jsonl", augment=copies)
    prepared = prepare(config, log=silent)
    assert (prepared.dir / "val.bin").read_bytes()

    def documents(data: PreparedData, split: Any) -> list[str]:
        file = open_tokens(data.dir, split)
        spans = zip(file.offsets[:-1].tolist(), file.offsets[1:].tolist(), strict=True)
        return [data.tokenizer.decode(file.tokens[start : stop - 1].tolist()) for start, stop in spans]

    assert documents(prepared, "val") == documents(plain, "val")
    training, originals = documents(prepared, "train"), documents(plain, "train")
    assert training[: len(originals)] == originals
    numbers = [number for number, text in enumerate(texts) if text in originals]
    wanted = [
        altered
        for copy in range(2)
        for number in numbers
        if (altered := augment(texts[number], config.data.augment, piece_rng(config.data.augment, copy, number)))
        not in ("", texts[number])
    ]
    assert training[len(originals) :] == wanted
    assert len(wanted) > 50
    # Killed after some parts, and run again.
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 200)
    monkeypatch.setattr(encoding, "PART_CHARACTERS", 400)
    again = make_config(tmp_path / "b", tmp_path / "texts.jsonl", augment=copies)
    calls = 0
    original = encoding.encode_chunks

    def dying(tokenizer_json: str, task: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return original(tokenizer_json, task)

    monkeypatch.setattr(encoding, "encode_chunks", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(again, log=silent)
    lines: list[str] = []
    resumed = prepare(again, log=lines.append)
    assert any("that an interrupted run has tokenised" in line for line in lines)
    for name in ("train.bin", "train.idx", "val.bin", "tokenizer.json"):
        assert (resumed.dir / name).read_bytes() == (prepared.dir / name).read_bytes(), name
