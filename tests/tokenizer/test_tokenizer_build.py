"""Building from a config, fingerprints, and bad files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest

from jslm import JslmError
from jslm.config import TokenizerConfig
from jslm.tokenizer import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    build_tokenizer,
    load_tokenizer,
    tokenizer_from_json,
)

TEXTS = ["the cat and the dog", "the cat ran"]


def no_texts() -> Iterable[str]:
    raise AssertionError("this kind needs no corpus")


def test_each_kind_is_built_from_its_config() -> None:
    char = build_tokenizer(TokenizerConfig(kind="char", special_tokens=["<|user|>"]), lambda: TEXTS)
    assert char.fingerprint == CharTokenizer.train(TEXTS, ["<|user|>"]).fingerprint
    bpe = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=260), lambda: iter(TEXTS))
    assert bpe.fingerprint == BpeTokenizer.train(TEXTS, 260).fingerprint
    assert bpe.vocab_size == 260
    byte = build_tokenizer(TokenizerConfig(kind="byte", special_tokens=["<|user|>"]), no_texts)
    assert byte.fingerprint == ByteTokenizer(["<|user|>"]).fingerprint


def test_gpt2_is_built_without_a_corpus(gpt2_tokenizer: Gpt2Tokenizer) -> None:
    config = TokenizerConfig(kind="gpt2", special_tokens=["<|user|>", "[SEP]"])
    assert build_tokenizer(config, no_texts).fingerprint == gpt2_tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_an_empty_corpus_is_refused(kind: str) -> None:
    with pytest.raises(JslmError, match=rf"tokenizer\.kind = '{kind}': the corpus has no text .* data\.source"):
        build_tokenizer(TokenizerConfig.model_validate({"kind": kind}), list)


def test_a_saved_tokenizer_is_loaded_instead(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    saved = CharTokenizer.train(TEXTS, ["<|user|>"])
    saved.save(path)
    for special in ([], ["<|user|>"]):
        loaded = build_tokenizer(TokenizerConfig(path=str(path), special_tokens=special), no_texts)
        assert loaded.fingerprint == saved.fingerprint
    with pytest.raises(JslmError, match=r"'<\|bot\|>' is not in tokenizer\.path"):
        build_tokenizer(TokenizerConfig(path=str(path), special_tokens=["<|bot|>"]), no_texts)


@pytest.mark.parametrize(
    ("special", "message"),
    [
        (["<|a|>", "<|a|>"], r"'<\|a\|>' comes twice"),
        (["<|endoftext|>"], r"'<\|endoftext\|>' is always there"),
        ([""], "'' is empty"),
        (["\ud800"], "lone surrogate"),
    ],
)
@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_bad_special_tokens_are_refused(kind: Literal["char", "byte", "bpe"], special: list[str], message: str) -> None:
    config = TokenizerConfig.model_construct(kind=kind, vocab_size=300, special_tokens=special, path="")
    with pytest.raises(JslmError, match=message):
        build_tokenizer(config, lambda: TEXTS)


def test_duplicate_special_tokens_of_gpt2_are_refused(gpt2_cache: Path) -> None:
    assert gpt2_cache.is_dir()
    with pytest.raises(JslmError, match="always there"):
        Gpt2Tokenizer(["<|endoftext|>"])


def test_the_longest_special_token_wins() -> None:
    tokenizer = ByteTokenizer(["<|a|>", "<|a|>b", "."])
    assert tokenizer.encode("<|a|>b<|a|>c.", allow_special=True) == [258, 257, ord("c"), 259]


def test_fingerprints_differ_where_anything_differs(gpt2_cache: Path) -> None:
    assert gpt2_cache.is_dir()
    tokenizers: list[Tokenizer] = [
        CharTokenizer.train(["abc"]),
        CharTokenizer.train(["abcd"]),
        CharTokenizer.train(["abc"], ["<|x|>"]),
        CharTokenizer.train(["abc"], ["<|x|>", "<|y|>"]),
        CharTokenizer.train(["abc"], ["<|y|>", "<|x|>"]),
        ByteTokenizer(),
        ByteTokenizer(["<|x|>"]),
        BpeTokenizer.train(TEXTS, 257),
        BpeTokenizer.train(TEXTS, 260),
        BpeTokenizer.train(TEXTS, 260, ["<|x|>"]),
        BpeTokenizer.train(["other words other words"], 260),
        Gpt2Tokenizer(),
        Gpt2Tokenizer(["<|x|>"]),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)
    assert CharTokenizer.train(["abc"]).fingerprint == CharTokenizer.train(["cb", "a"]).fingerprint


def test_fingerprints_never_change() -> None:
    # Golden: token files and checkpoints on users' disks carry them. A change here orphans every one.
    assert ByteTokenizer().fingerprint == "e128730ad5b12874"
    assert CharTokenizer.train(["abc"], ["<|x|>"]).fingerprint == "337e30489f7a2242"
    assert BpeTokenizer.train(["ab ab"], 300).fingerprint == "8f7a5582aad37b93"


def test_the_order_of_merges_is_part_of_the_fingerprint() -> None:
    tokenizer = BpeTokenizer.train(["abc abc ab bc ab bc"], 300)
    fields = json.loads(tokenizer.to_json())
    fields["tokenizers"]["model"]["merges"].reverse()
    with pytest.raises(JslmError, match="edited or damaged"):
        tokenizer_from_json(json.dumps(fields))


def test_the_order_of_json_keys_does_not_matter(tokenizer: Tokenizer) -> None:
    fields = json.loads(tokenizer.to_json(), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert tokenizer_from_json(json.dumps(fields)).fingerprint == tokenizer.fingerprint


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=r"absent\.json: no such file or directory; expected a tokenizer"):
        load_tokenizer(tmp_path / "absent.json")
    with pytest.raises(JslmError, match="directory"):
        load_tokenizer(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JslmError, match=r"binary\.json: not UTF-8"):
        load_tokenizer(tmp_path / "binary.json")


def test_every_truncation_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    whole = ByteTokenizer(["<|x|>"]).to_json()
    for length in range(len(whole) - 1):
        path.write_text(whole[:length], encoding="utf-8")
        with pytest.raises(JslmError, match=r"tokenizer\.json: not JSON, or cut short") as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "another JSON file; expected a tokenizer written by jslm"),
        ({"version": 2}, "version 2 of the format; this jslm reads 1"),
        ({"kind": "word"}, "tokenizer kind 'word'; expected one of char, byte, bpe, gpt2"),
        ({"fingerprint": "0" * 16}, "the file says fingerprint '0000000000000000'"),
        ({"special_tokens": None}, "damaged"),
        ({"special_tokens": {"": 1}}, "damaged .*gaps"),
        ({"special_tokens": {"<|endoftext|>": 0, "<|z|>": 1}}, "damaged .*gaps"),
        ({"special_tokens": {"<|endoftext|>": 0}}, "edited or damaged"),
        ({"tokenizers": {}}, r"damaged \(no 'model'\)"),
        ({"tokenizers": {"model": {"vocab": {}, "merges": []}}}, "damaged .*lacks the byte"),
    ],
)
def test_bad_fields_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    fields = json.loads(BpeTokenizer.train(TEXTS, 260, ["<|x|>"]).to_json())
    with pytest.raises(JslmError, match=f"^mine.json: .*{message}") as caught:
        tokenizer_from_json(json.dumps(fields | changes), where="mine.json")
    assert "\n" not in str(caught.value)


def test_a_bad_special_token_in_a_file_names_the_file() -> None:
    fields = json.loads(ByteTokenizer().to_json()) | {"special_tokens": {"<|endoftext|>": 256, "": 257}}
    with pytest.raises(JslmError, match=r"^mine\.json: tokenizer\.special_tokens: '' is empty"):
        tokenizer_from_json(json.dumps(fields), where="mine.json")


def test_damaged_vocabularies_are_refused() -> None:
    good = BpeTokenizer.train(TEXTS, 262).to_json()
    model = json.loads(good)["tokenizers"]["model"]
    bad_models = [
        model | {"merges": [["t", "漢"]]},
        model | {"merges": [["t"]]},
        model | {"merges": [[1, 2]]},
        model | {"vocab": model["vocab"] | {"extra": 900}},
        model | {"vocab": model["vocab"] | {"漢": len(model["vocab"])}},
        model | {"vocab": list(model["vocab"])},
    ]
    for bad in bad_models:
        fields = json.loads(good) | {"tokenizers": {"model": bad}}
        with pytest.raises(JslmError, match=r"^tokenizer: damaged"):
            tokenizer_from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["[]", "1", "null", '{"model": {}}', "[" * 100_000])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(JslmError, match="expected a tokenizer written by jslm"):
        tokenizer_from_json(text)


def test_a_hugging_face_file_is_recognised() -> None:
    with pytest.raises(JslmError, match="a Hugging Face tokenizer"):
        tokenizer_from_json(BpeTokenizer.train(TEXTS, 260).tokenizers_json())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    old = ByteTokenizer()
    old.save(path)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(JslmError, match=r"tokenizer\.json: cannot be written \(No space left on device\)"):
        ByteTokenizer(["<|x|>"]).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    assert load_tokenizer(path).fingerprint == old.fingerprint
