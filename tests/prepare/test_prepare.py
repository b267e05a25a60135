from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.config import Config, DataConfig, PrepareConfig, TokenizerConfig
from jslm.errors import JslmError
from jslm.prepare import PreparedData, corpus, ensure_prepared, pipeline, prepare
from jslm.prepare import encode as encoding
from jslm.prepare.__main__ import main
from jslm.prepare.encode import cut_text
from jslm.prepare.lock import folder_lock
from jslm.prepare.split import Counts, Piece, plan_split
from jslm.prepare.summary import summary
from jslm.text.documents import Document
from jslm.tokenizer import build_tokenizer
from jslm.tokens import open_tokens, verify
from jslm.tokens.loader import TrainLoader

POEM = "Rosen auf den Weg gestreut,\nund des Harms vergessen!\n\n  Eine kurze Spanne Zeit\nward uns zugemessen. "
silent: Callable[[str], None] = lambda message: None  # noqa: E731


def make_config(folder: Path, source: str | Path | list[str], kind: str = "byte", **data: Any) -> Config:
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source=source if isinstance(source, list) else str(source), **data),
        tokenizer=TokenizerConfig(kind=kind),  # type: ignore[arg-type]
        prepare=PrepareConfig(workers=1),
    )


def write_documents(path: Path, count: int) -> list[str]:
    texts = [f"Document {number}." for number in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def documents_of(prepared: PreparedData, split: Any) -> list[str]:
    """The split's documents as text, each with a | where it has an end-of-text token."""
    file = open_tokens(prepared.dir, split)
    eot = prepared.tokenizer.eot_id
    texts = []
    for start, stop in zip(file.offsets[:-1], file.offsets[1:], strict=True):
        ids = file.tokens[int(start) : int(stop)].tolist()
        texts.append(prepared.tokenizer.decode([i for i in ids if i != eot]) + "|" * ids.count(eot))
    return texts


def files_of(prepared: PreparedData) -> dict[str, bytes]:
    # Without the time at which the sources were looked at.
    return {path.name: path.read_bytes() for path in prepared.dir.iterdir() if path.name != "inputs.json"}


@pytest.fixture
def shakespeare(assets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
    return assets / "tinyshakespeare" / "input.txt"


def test_tinyshakespeare_has_the_known_numbers_of_gpt2_tokens(tmp_path: Path, shakespeare: Path) -> None:
    meta = prepare(make_config(tmp_path, shakespeare, "gpt2"), log=silent).meta
    assert (meta["train"]["tokens"], meta["val"]["tokens"]) == (301_966, 36_059)
    assert meta["train"]["characters"] + meta["val"]["characters"] == 1_115_394
    assert (meta["split"], meta["end_of_text"]) == ("position", False)


def test_tinyshakespeare_has_the_known_numbers_of_characters(tmp_path: Path, shakespeare: Path) -> None:
    prepared = prepare(make_config(tmp_path, shakespeare, "char"), log=silent)
    assert (prepared.meta["train"]["tokens"], prepared.meta["val"]["tokens"]) == (1_003_854, 111_540)
    assert prepared.meta["unknown_characters"] == 0
    text = shakespeare.read_text("utf-8")
    assert documents_of(prepared, "train") == [text[:1_003_854]]
    assert documents_of(prepared, "val") == [text[1_003_854:]]


def test_documents_keep_their_text_and_are_closed(tmp_path: Path) -> None:
    texts = write_documents(tmp_path / "a.jsonl", 40)
    prepared = prepare(make_config(tmp_path, tmp_path / "a.jsonl"), log=silent)
    train, val = documents_of(prepared, "train"), documents_of(prepared, "val")
    assert (len(train), len(val), prepared.meta["split"]) == (36, 4, "document")
    assert sorted(train + val) == sorted(f"{text}|" for text in texts)
    assert prepared.meta["train"]["bytes"] == sum(len(text) - 1 for text in train)
    verify(prepared.dir, prepared.tokenizer.fingerprint)


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 9))
def test_held_out_documents_are_spread_and_as_many_as_asked(count: int, fraction: float, seed: int) -> None:
    config = DataConfig(split="document", validation_fraction=fraction, split_seed=seed)
    held_out = plan_split(config, Counts(count, count, count)).held_out
    assert len(held_out) == min(max(1, round(count * fraction)), count - 1)
    assert sorted(set(held_out)) == list(held_out)
    for number, document in enumerate(held_out):
        assert number * count // len(held_out) <= document < (number + 1) * count // len(held_out)


def test_the_split_seed_decides_which_documents() -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return plan_split(DataConfig(split_seed=seed), Counts(100, 100, 100)).held_out

    assert draw(0) == draw(0)
    assert len({draw(seed) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("documents", "fraction", "split"),
    [(1, 0.1, "position"), (19, 0.1, "position"), (20, 0.1, "document"), (1, 0.0, "position"), (2, 0.0, "document")],
)
def test_auto_splits_by_document_where_there_are_enough(documents: int, fraction: float, split: str) -> None:
    plan = plan_split(DataConfig(validation_fraction=fraction), Counts(documents, 1000, 1000))
    assert (plan.by, plan.end_of_text) == (split, documents > 1)


def test_by_position_the_last_part_of_all_documents_is_held_out() -> None:
    documents = [Document("abcd", "x", 1.0), Document("efgh", "x", 2.0), Document("ij", "x", 4.0)]
    plan = plan_split(DataConfig(split="position", validation_fraction=0.4), Counts(3, 10, 10))
    assert list(plan.apply(documents)) == [
        Piece("abcd", "train", True, 1.0),
        Piece("ef", "train", False, None),
        Piece("gh", "val", True, None),
        Piece("ij", "val", True, 4.0),
    ]
    at_the_seam = plan_split(DataConfig(split="position", validation_fraction=0.2), Counts(3, 10, 10))
    assert [(piece.text, piece.split) for piece in at_the_seam.apply(documents)] == [
        ("abcd", "train"),
        ("efgh", "train"),
        ("ij", "val"),
    ]


@pytest.mark.parametrize(("setting", "closing"), [("auto", ""), ("always", "|"), ("never", "")])
def test_end_of_text_of_a_single_document(tmp_path: Path, setting: str, closing: str) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 2)
    prepared = prepare(make_config(tmp_path, tmp_path / "a.txt", end_of_text=setting), log=silent)
    assert documents_of(prepared, "train") == ["012345678901234567"]
    assert documents_of(prepared, "val") == ["89" + closing]


def test_never_closes_no_document(tmp_path: Path) -> None:
    texts = write_documents(tmp_path / "a.jsonl", 30)
    prepared = prepare(make_config(tmp_path, tmp_path / "a.jsonl", end_of_text="never"), log=silent)
    assert sorted(documents_of(prepared, "train") + documents_of(prepared, "val")) == sorted(texts)


def test_without_validation_everything_is_trained_on(tmp_path: Path) -> None:
    texts = write_documents(tmp_path / "a.jsonl", 30)
    prepared = prepare(make_config(tmp_path, tmp_path / "a.jsonl", validation_fraction=0.0), log=silent)
    assert documents_of(prepared, "train") == [f"{text}|" for text in texts]
    assert open_tokens(prepared.dir, "val").tokens.size == 0


def test_known_bits_are_summed(tmp_path: Path) -> None:
    prepared = prepare(make_config(tmp_path, "stories:50KB:seed=3"), log=silent)
    assert prepared.meta["train"]["bits"] > 10 * prepared.meta["val"]["documents"]
    assert prepared.meta["train"]["bits"] < 8 * prepared.meta["train"]["bytes"]
    again = prepare(make_config(tmp_path / "b", "stories:50KB:seed=3"), log=silent)
    assert again.meta["train"] == prepared.meta["train"]


def test_what_cleaners_removed_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"_Document_ {n}.  \n"}) + "\n" for n in range(40)))
    config = make_config(tmp_path, source, cleaners=["emphasis", "footnotes", "normalize"])
    prepared = prepare(config, log=silent)
    assert documents_of(prepared, "val")[0].startswith("Document ")
    assert prepared.meta["removed"] == {"emphasis": {"marks": 80}, "normalize": {"white space": 120}}
    assert prepared.meta["settings"]["data.cleaners"] == ["emphasis", "footnotes", "normalize"]
    assert summary(prepared).splitlines()[-3:] == [
        "cleaner emphasis: marks 80 character(s)",
        "cleaner footnotes: nothing",
        "cleaner normalize: white space 120 character(s)",
    ]
    monkeypatch.setattr(corpus, "PART_BYTES", 100)
    assert prepare(config, force=True, log=silent).meta == prepared.meta
    with pytest.raises(JslmError, match=r"made with data\.cleaners = \['emphasis', 'footnotes', 'normalize'\], but"):
        ensure_prepared(make_config(tmp_path, source), log=silent)


def test_files_older_than_a_setting_have_its_default(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    prepared = prepare(make_config(tmp_path, source), log=silent)
    path = prepared.dir / "meta.json"
    meta = json.loads(path.read_text())
    del meta["settings"]["data.cleaners"]
    path.write_text(json.dumps(meta))
    ensure_prepared(make_config(tmp_path, source), log=silent)
    with pytest.raises(JslmError, match=r"made with data\.cleaners = \[\], but"):
        ensure_prepared(make_config(tmp_path, source, cleaners=["normalize"]), log=silent)


def test_too_little_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text, expected in (("a", "0 token(s) are left for training"), ("abc", "1 token(s) are left for validation")):
        path.write_text(text)
        with pytest.raises(JslmError) as caught:
            prepare(make_config(tmp_path, path), log=silent)
        assert expected in str(caught.value)
        assert not (tmp_path / "run" / "data" / "meta.json").exists()
    path.write_text("abcd" * 9)
    with pytest.raises(JslmError, match="needs at least 2 documents to hold one out, found 1"):
        prepare(make_config(tmp_path, path, split="document"), log=silent)
    path.write_text("\n")
    with pytest.raises(JslmError, match="no text in"):
        prepare(make_config(tmp_path, path), log=silent)


def test_a_mistaken_source_leaves_no_folder(tmp_path: Path) -> None:
    for source in ("", str(tmp_path / "absent.txt")):
        with pytest.raises(JslmError, match=r"data\.source"):
            ensure_prepared(make_config(tmp_path, source), log=silent)
    assert list(tmp_path.iterdir()) == []


@given(st.text(st.sampled_from("ab é.\n 1'😀\t"), max_size=60), st.integers(1, 20))
@pytest.mark.parametrize("cuts", ["anywhere", "before_spaces", "nowhere"])
def test_cut_text_loses_nothing(cuts: Literal["anywhere", "before_spaces", "nowhere"], text: str, size: int) -> None:
    parts = list(cut_text(text, size, cuts))
    assert "".join(parts) == text
    assert all(len(part) >= size for part in parts[:-1])
    assert cuts != "anywhere" or all(len(part) == size for part in parts[:-1])
    assert cuts != "nowhere" or len(parts) == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(["word", " ", "\n", "'s", "12", "...", "é", "\t", "天地", "\u00a0"]), max_size=40))
def test_cuts_do_not_change_the_tokens(assets: Path, words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
        tokenizer = build_tokenizer(TokenizerConfig(kind="gpt2"), lambda: [""])
    text = "".join(words)
    in_parts = [i for part in cut_text(text, 5, "before_spaces") for i in tokenizer.encode(part)]
    assert in_parts == list(tokenizer.encode(text))


def test_a_long_text_without_a_safe_place_stays_whole() -> None:
    text = "x" * 50_000
    assert list(cut_text(text, 100, "before_spaces")) == [text]
    assert [len(part) for part in cut_text(text + " y" + text, 100, "before_spaces")] == [50_000, 50_002]


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_the_files_are_the_same_for_any_number_of_workers_and_chunk_size(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / f"{name}.txt").write_text((POEM + name) * 400)
    config = make_config(tmp_path, tmp_path / "in", kind)
    config = config.model_copy(update={"tokenizer": TokenizerConfig(kind=kind, vocab_size=300)})  # type: ignore[arg-type]
    one = files_of(prepare(config, log=silent))
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 1000)
    assert files_of(prepare(config, force=True, log=silent)) == one
    monkeypatch.setattr(pipeline, "MIN_PARALLEL_BYTES", 0)
    two = config.model_copy(update={"prepare": PrepareConfig(workers=2)})
    assert files_of(prepare(two, force=True, log=silent)) == one
    assert (tmp_path / "run" / "data" / "train.bin").stat().st_size > 1000


def test_a_failure_midway_leaves_no_meta_and_keeps_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "a.jsonl", 40)
    config = make_config(tmp_path, tmp_path / "a.jsonl")

    def fail(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "add_parts", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, log=silent)
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == [".lock", ".work"]
    before = files_of(prepare(config, log=silent))
    assert sorted(before) == [".lock", "meta.json", "tokenizer.json", "train.bin", "train.idx", "val.bin", "val.idx"]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "add_parts", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, force=True, log=silent)
    prepared = ensure_prepared(config, log=silent)
    assert (prepared.dir / ".work").exists()
    assert files_of(prepare(config, log=silent)) == before


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl", 40)
    left = tmp_path / "run" / "data" / ".partial-old"
    left.mkdir(parents=True)
    (left / "train.bin").write_bytes(b"half")
    prepared = ensure_prepared(make_config(tmp_path, tmp_path / "a.jsonl"), log=silent)
    assert not left.exists()
    verify(prepared.dir)


def test_prepared_files_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    config = make_config(tmp_path, source)
    first = ensure_prepared(config, log=silent)
    monkeypatch.setattr(pipeline, "build_tokenizer", None)
    assert ensure_prepared(config, log=silent).meta == first.meta
    assert prepare(config, log=silent).meta == first.meta
    source.unlink()
    assert ensure_prepared(config, log=silent).meta == first.meta
    assert ensure_prepared(make_config(tmp_path, "", separator="|"), log=silent).meta == first.meta


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "char"}, "made with tokenizer.kind = 'byte', but the config has 'char'"),
        ({"validation_fraction": 0.2}, "made with data.validation_fraction = 0.1, but the config has 0.2"),
        ({"separator": "|"}, "made with data.separator = '', but the config has '|'"),
        ({"source": "other.txt"}, "but the config has ['other.txt']"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    ensure_prepared(make_config(tmp_path, source), log=silent)
    with pytest.raises(JslmError) as caught:
        ensure_prepared(make_config(tmp_path, **({"source": source} | change)), log=silent)
    assert expected in str(caught.value)
    assert "--force" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_edited_input_files_are_noticed(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    ensure_prepared(make_config(tmp_path, source), log=silent)
    write_documents(source, 41)
    with pytest.raises(JslmError, match=r"made from 1 file\(s\) of [\d,]+ bytes, but data\.source now has 1 of"):
        ensure_prepared(make_config(tmp_path, source), log=silent)


def test_a_damaged_or_exchanged_tokenizer_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    prepared = ensure_prepared(make_config(tmp_path, source), log=silent)
    other = prepare(make_config(tmp_path / "other", source, "char"), log=silent)
    (prepared.dir / "tokenizer.json").write_bytes((other.dir / "tokenizer.json").read_bytes())
    with pytest.raises(JslmError, match=r"tokenizer\.json: fingerprint \w+ found, \w+ expected"):
        ensure_prepared(make_config(tmp_path, source), log=silent)
    (prepared.dir / "tokenizer.json").unlink()
    with pytest.raises(JslmError, match=r"tokenizer\.json: not found"):
        ensure_prepared(make_config(tmp_path, source), log=silent)


def test_a_tokenizer_file_stands_for_its_contents(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    write_documents(source, 40)
    char = prepare(make_config(tmp_path / "char", source, "char"), log=silent)
    byte = prepare(make_config(tmp_path / "byte", source), log=silent)

    def with_path(folder: Path) -> Config:
        path = str(folder / "tokenizer.json")
        return make_config(tmp_path, source).model_copy(update={"tokenizer": TokenizerConfig(path=path)})

    prepared = ensure_prepared(with_path(char.dir), log=silent)
    assert prepared.tokenizer.fingerprint == char.tokenizer.fingerprint
    assert ensure_prepared(with_path(char.dir), log=silent).meta == prepared.meta
    with pytest.raises(JslmError, match=r"but tokenizer\.path = "):
        ensure_prepared(with_path(byte.dir), log=silent)


def test_characters_that_a_given_tokenizer_lacks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("abcdefgh" * 5)
    (tmp_path / "odd.txt").write_text("abcdüfgß" * 5)
    plain = prepare(make_config(tmp_path / "plain", tmp_path / "plain.txt", "char"), log=silent)
    path = str(plain.dir / "tokenizer.json")
    config = make_config(tmp_path, tmp_path / "odd.txt").model_copy(update={"tokenizer": TokenizerConfig(path=path)})
    lines: list[str] = []
    assert prepare(config, log=lines.append).meta["unknown_characters"] == 10
    assert any("10 character(s)" in line for line in lines)


def hold_lock(folder: str, held: Any, release: Any) -> None:
    with folder_lock(Path(folder), print):
        held.set()
        release.wait(100)


def test_a_second_process_waits_and_then_uses_the_files(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl", 40)
    config = make_config(tmp_path, tmp_path / "a.jsonl")
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(config.data_dir, held, release))
    holder.start()
    assert held.wait(100)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        release.set()

    verify(ensure_prepared(config, log=log).dir)
    holder.join(100)
    assert "another process is preparing it; waiting" in lines[0]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_documents(tmp_path / "a.jsonl", 40)
    config = tmp_path / "a.toml"
    config.write_text('[tokenizer]\nkind = "byte"\n')
    arguments = ["--config", str(config), f"run_dir={tmp_path / 'run'}", f"data.source={tmp_path / 'a.jsonl'}"]
    assert main(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [["split", "documents"], ["train", "36"], ["val", "4"]]
    assert out[3].endswith(f"in {tmp_path / 'run' / 'data'}")
    assert main([*arguments, "tokenizer.kind=char"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jslm prepare: error: ")
    assert error.count("\n") == 1
    assert main([*arguments, "tokenizer.kind=char", "--force"]) == 0
    assert main([*arguments, "--print-config"]) == 0
    assert 'kind = "byte"' in capsys.readouterr().out


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, jslm.prepare, jslm.prepare.__main__\n"
        "print(sorted({'jax', 'grain', 'tokenizers', 'tiktoken'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_prepared_files_go_straight_into_the_loader(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl", 40)
    prepared = prepare(make_config(tmp_path, tmp_path / "a.jsonl"), log=silent)
    file = open_tokens(prepared.dir, "train")
    loader = TrainLoader(file, context_length=16, batch_size=2, seed=0, shuffle=False)
    assert np.array_equal(next(loader)["inputs"].ravel(), file.tokens[:32])
    loader.close()
