"""Conversations from files to batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jslm.config import Config, ModelConfig, config_from_dict
from jslm.corpora.chat_examples import generate_examples
from jslm.errors import JslmError
from jslm.inspect.__main__ import main as inspect
from jslm.model import apply_decoder, init_params
from jslm.prepare import PreparedData, ensure_prepared, prepare
from jslm.prepare import encode as encoding
from jslm.prompts.chat import find_template, template_source
from jslm.tokens import open_tokens, verify
from jslm.tokens.loader import TrainLoader

silent: Callable[[str], None] = lambda message: None  # noqa: E731
CHATML = ["<|im_start|>", "<|im_end|>"]


def make_config(folder: Path, source: Path, kind: str = "char", workers: int = 1, **data: Any) -> Config:
    values: dict[str, Any] = {
        "run_dir": str(folder),
        "data": {"source": str(source), "messages": "messages", "packing": "documents", "validation_fraction": 0.25},
        "tokenizer": {"kind": kind, "vocab_size": 300},
        "prepare": {"workers": workers},
    }
    values["data"] |= data
    if data.get("chat_template") == "chatml":
        values["tokenizer"]["special_tokens"] = CHATML
    return config_from_dict(values, "test")


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def examples(path: Path, count: int = 40) -> list[list[dict[str, str]]]:
    records = [example.record() for example in generate_examples(count)]
    write_lines(path, records)
    return [record["messages"] for record in records]


def learned_texts(prepared: PreparedData, split: Any) -> list[str]:
    """What is learned of each document, end of text left out."""
    file, tokenizer = open_tokens(prepared.dir, split), prepared.tokenizer
    assert file.learned is not None
    found = []
    for start, stop in zip(file.offsets[:-1].astype(int), file.offsets[1:].astype(int), strict=True):
        ids, learned = file.tokens[start:stop], file.learned[start:stop]
        found.append(tokenizer.decode(ids[learned > 0].tolist()))
    return found


@pytest.mark.parametrize(
    ("kind", "template", "end"), [("char", "plain", "<|endoftext|>"), ("bpe", "chatml", CHATML[1])]
)
def test_what_assistants_say_is_learned(tmp_path: Path, kind: str, template: str, end: str) -> None:
    conversations = examples(tmp_path / "chat.jsonl")
    config = make_config(tmp_path / "a", tmp_path / "chat.jsonl", kind, chat_template=template)
    prepared = prepare(config, log=silent)
    wanted = ["".join(m["content"] + end for m in messages if m["role"] == "assistant") for messages in conversations]
    assert sorted(learned_texts(prepared, "train") + learned_texts(prepared, "val")) == sorted(wanted)
    meta = verify(prepared.dir)
    file = open_tokens(prepared.dir, "train")
    assert file.learned is not None
    assert meta["train"]["learned_tokens"] == int(file.learned.sum()) < meta["train"]["tokens"]
    # Special tokens are no text.
    spoken = prepared.tokenizer.decode(file.tokens.tolist(), skip_special=True)
    assert meta["train"]["bytes"] == len(spoken.encode())
    assert find_template(prepared.dir) == template_source(template)
    # An epoch learns each of these tokens once, and nothing else.
    loader = TrainLoader(file, context_length=512, batch_size=1, seed=0, packing="documents")
    rows = [loader.batch_at(step)["targets"] for step in range(loader.examples_per_epoch)]
    learned = np.concatenate([row[row >= 0] for row in rows])
    assert sorted(learned.tolist()) == sorted(file.tokens[file.learned > 0].tolist())


def test_a_batch_by_hand(tmp_path: Path) -> None:
    """Two conversations, one row: every input, target and segment."""
    first = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    second = [*first, {"role": "user", "content": "c"}, {"role": "assistant", "content": "de"}]
    template = tmp_path / "short.jinja"
    template.write_text(
        "{% for m in messages %}{{ '>' if m.role == 'user' else '' }}{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else ':' }}{% endfor %}",
        "utf-8",
    )
    source = write_lines(tmp_path / "two.jsonl", [{"messages": m} for m in (first, second)])
    config = make_config(tmp_path / "a", source, "byte", chat_template=str(template), validation_fraction=0.0)
    file = open_tokens(prepare(config, log=silent).dir, "train")
    batch = TrainLoader(file, context_length=18, batch_size=1, seed=0, packing="documents", shuffle=False).batch_at(0)
    end, none = 256, -1
    inputs = [end, *b">a:b", end, *b">a:b", end, *b">c:de"]
    targets = [none, none, none, *b"b", end, none, none, none, *b"b", end, none, none, none, *b"de", end]
    padding = 18 - len(inputs)
    assert batch["inputs"].tolist() == [inputs + [0] * padding]
    assert batch["targets"].tolist() == [targets + [none] * padding]
    assert batch["segments"].tolist() == [[1] * 5 + [2] * 11 + [0] * padding]


def test_packed_conversations_do_not_see_each_other(tmp_path: Path) -> None:
    examples(tmp_path / "chat.jsonl")
    file = open_tokens(prepare(make_config(tmp_path / "a", tmp_path / "chat.jsonl"), log=silent).dir, "train")
    batch = TrainLoader(file, context_length=1024, batch_size=1, seed=0, packing="documents").batch_at(0)
    inputs, segments = jax.numpy.asarray(batch["inputs"]), jax.numpy.asarray(batch["segments"])
    assert segments.max() > 1
    model = ModelConfig(
        n_layers=2, d_model=16, n_heads=2, d_ff=16, context_length=1024, vocab_size=128, dtype="float32"
    )
    params = init_params(model, jax.random.key(0))
    hidden = np.asarray(apply_decoder(params, inputs, model, segments=segments))[0]
    for number in range(1, int(segments.max()) + 1):
        here = np.asarray(segments[0] == number)
        alone = apply_decoder(params, inputs[:, here], model)
        np.testing.assert_allclose(hidden[here], np.asarray(alone)[0], rtol=1e-4, atol=1e-5)


def test_json_parquet_workers_and_parts_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = examples(tmp_path / "chat.jsonl")
    (tmp_path / "chat.json").write_text(json.dumps([{"messages": m} for m in conversations], indent=1), "utf-8")
    pq.write_table(pa.table({"messages": conversations}), tmp_path / "chat.parquet")
    whole = prepare(make_config(tmp_path / "a", tmp_path / "chat.jsonl"), log=silent)
    others = [make_config(tmp_path / kind, tmp_path / f"chat.{kind}") for kind in ("json", "parquet")]
    others.append(make_config(tmp_path / "cut", tmp_path / "chat.jsonl", workers=2))
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 7)
    monkeypatch.setattr(encoding, "PART_CHARACTERS", 50)
    for config in others:
        made = prepare(config, log=silent)
        for name in ("train.bin", "train.idx", "train.learned", "val.learned", "tokenizer.json"):
            assert (made.dir / name).read_bytes() == (whole.dir / name).read_bytes(), (config.data.source, name)


def test_the_last_part_may_hold_special_tokens_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples(tmp_path / "chat.jsonl", 4)
    template = tmp_path / "ends.jinja"
    template.write_text("{% for message in messages %}{{ message.content ~ '<|im_end|>' }}{% endfor %}", "utf-8")
    values = make_config(tmp_path / "a", tmp_path / "chat.jsonl", chat_template=str(template)).model_dump()
    values["tokenizer"]["special_tokens"] = CHATML
    whole = prepare(config_from_dict(values, "test"), log=silent)
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 1)
    monkeypatch.setattr(encoding, "PART_CHARACTERS", 1)
    cut = prepare(config_from_dict({**values, "run_dir": str(tmp_path / "b")}, "test"), log=silent)
    for name in ("train.bin", "train.idx", "val.bin", "val.idx", "train.learned"):
        assert (cut.dir / name).read_bytes() == (whole.dir / name).read_bytes(), name


GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "a"}, r"no key 'messages'; keys found: 'text'; set data\.messages to the one"),
        ({"messages": "a"}, "key 'messages': expected a list of messages"),
        ({"messages": [{"role": "user"}]}, r"key 'messages': messages\[0\]\.content is missing"),
        ({"messages": [{"content": "a"}]}, r"key 'messages': messages\[0\]\.role is missing"),
        ({"messages": GOOD["messages"][:1]}, "key 'messages': no message is of the role assistant"),
        ({"messages": GOOD["messages"][1:]}, "the chat template refuses the messages: message 1 is of the role"),
        ("a", "expected a JSON object with the key 'messages', found str"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, record: Any, expected: str) -> None:
    source = write_lines(tmp_path / "bad.jsonl", [GOOD, record, GOOD, GOOD])
    config = make_config(tmp_path / "a", source)
    with pytest.raises(JslmError, match=rf"bad\.jsonl:2: {expected}|bad\.jsonl:2: .*{expected}") as failure:
        prepare(config, log=silent)
    assert "\n" not in str(failure.value)
    values = config.model_dump()
    values["prepare"]["on_bad_document"] = "skip"
    prepared = prepare(config_from_dict(values, "test"), log=silent)
    assert prepared.meta["skipped"]["count"] == 1
    assert prepared.meta["train"]["documents"] + prepared.meta["val"]["documents"] == 3


def test_files_without_conversations(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    with pytest.raises(JslmError, match=r"no text in .*empty\.jsonl; every file in it is empty"):
        prepare(make_config(tmp_path / "a", tmp_path / "empty.jsonl"), log=silent)
    (tmp_path / "plain.txt").write_text("Hello.", "utf-8")
    with pytest.raises(JslmError, match=r"plain\.txt: data\.messages: no record with messages, but plain text"):
        prepare(make_config(tmp_path / "b", tmp_path / "plain.txt"), log=silent)


def test_a_pair_without_a_completion_is_named(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "pairs.jsonl", [{"p": "a", "c": "b"}, {"p": "a", "c": None}])
    pairs: dict[str, Any] = {"messages": "", "template": "{p}\t{c}", "prompt_end": "\t"}
    with pytest.raises(JslmError, match=r"pairs\.jsonl:2: the pair has no completion after the prompt 'a\\t'"):
        prepare(make_config(tmp_path / "a", source, **pairs), log=silent)
    with pytest.raises(JslmError, match=r"pairs\.jsonl:1: no key 'q'; keys found: 'p', 'c'; mend data\.template"):
        prepare(make_config(tmp_path / "b", source, **pairs | {"template": "{q}\t{c}"}), log=silent)


def test_templates_that_can_not_be_used(tmp_path: Path) -> None:
    examples(tmp_path / "chat.jsonl")
    with pytest.raises(JslmError, match="no template of that name; there are plain, chatml"):
        prepare(make_config(tmp_path / "a", tmp_path / "chat.jsonl", chat_template="alpaca"), log=silent)
    values = make_config(tmp_path / "b", tmp_path / "chat.jsonl", chat_template="chatml").model_dump()
    values["tokenizer"]["special_tokens"] = []
    with pytest.raises(JslmError, match=r"'chatml' writes <\|im_start\|>, which is no special token"):
        prepare(config_from_dict(values, "test"), log=silent)


def test_an_edited_template_is_noticed(tmp_path: Path) -> None:
    examples(tmp_path / "chat.jsonl")
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "utf-8")
    # Its prompt is not told from the answer that follows.
    config = make_config(tmp_path / "a", tmp_path / "chat.jsonl", chat_template=str(template))
    prepare(config, log=silent)
    template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}", "utf-8")
    with pytest.raises(JslmError, match=r"made with data\.chat_template = '.*mine\.jinja \([0-9a-f]{12}\)'"):
        ensure_prepared(config, log=silent)
    template.unlink()
    assert ensure_prepared(config, log=silent).meta["train"]["learned_tokens"] > 0


def test_damage_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples(tmp_path / "chat.jsonl")
    prepared = prepare(make_config(tmp_path / "a", tmp_path / "chat.jsonl"), log=silent)
    assert inspect([str(prepared.dir), "--batch"]) == 0
    assert "data.packing = windows" not in capsys.readouterr().out
    file = prepared.dir / "train.learned"
    flags = bytearray(file.read_bytes())
    flags[0] = 1
    file.write_bytes(bytes(flags))
    with pytest.raises(JslmError, match=r"train\.learned: expected [\d,]+ learned tokens, found other numbers"):
        verify(prepared.dir)
    file.write_bytes(bytes(flags[1:]))
    with pytest.raises(JslmError, match=r"train\.learned: expected [\d,]+ bytes"):
        open_tokens(prepared.dir, "train")
    file.write_bytes(bytes(flags))
    tokens = open_tokens(prepared.dir, "train")
    with pytest.raises(JslmError, match=r"pairs or conversations, whose prompts are not learned"):
        TrainLoader(tokens, context_length=64, batch_size=1, seed=0, packing="windows")


def test_text_in_the_folder_of_conversations_has_no_template(tmp_path: Path) -> None:
    examples(tmp_path / "chat.jsonl")
    assert find_template(prepare(make_config(tmp_path / "a", tmp_path / "chat.jsonl"), log=silent).dir)
    texts = write_lines(tmp_path / "texts.jsonl", [{"text": f"Text {number}."} for number in range(20)])
    prepared = prepare(make_config(tmp_path / "a", texts, messages=""), force=True, log=silent)
    assert find_template(prepared.dir) == ""
    assert open_tokens(prepared.dir, "train").learned is None
