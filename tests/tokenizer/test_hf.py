"""Tokenizers of other programs, kept as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from jslm import JslmError
from jslm.tokenizer import HuggingFaceTokenizer, StreamDecoder, load_tokenizer, tokenizer_from_json

TEXT = ["Once upon a time there was a little cat. The cat didn't like the rain — 漢字 🙂\n"] * 4
ANY_TEXT = st.lists(st.sampled_from(["the ", "  ", "\n", "</s>", "<s>", "🙂", "é", "漢", "a"]) | st.text(max_size=5))


@pytest.fixture(scope="module")
def llama(assets: Path) -> HuggingFaceTokenizer:
    path = assets / "checkpoints" / "hf_tiny_random_llama" / "tokenizer.json"
    return HuggingFaceTokenizer(json.loads(path.read_text("utf-8")), bos_id=1, eos_id=2)


def byte_level(**decoder: Any) -> dict[str, Any]:
    library = LibraryTokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<unk>", "<|end|>"],
        show_progress=False,
    )
    library.train_from_iterator(TEXT, trainer)
    fields: dict[str, Any] = json.loads(library.to_str())
    return fields | ({"decoder": decoder or None} if decoder else {})


def test_bos_and_eos_are_the_files(llama: HuggingFaceTokenizer) -> None:
    assert (llama.bos_id, llama.eot_id, llama.vocab_size) == (1, 2, 32000)
    assert llama.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    # Its post-processor puts <s> first; a GPT-2 file has none.
    assert llama.adds_bos
    plain = HuggingFaceTokenizer(byte_level(), bos_id=None, eos_id=1)
    assert not plain.adds_bos
    assert plain.bos_id == plain.eot_id == 1


@given(words=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_llama_texts_come_back(llama: HuggingFaceTokenizer, words: list[str]) -> None:
    text = "".join(words)
    # Its spelling of a space is not told from one.
    ids = llama.encode(text)
    wanted = text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
    assert llama.decode(ids) == wanted
    assert not {1, 2} & set(ids)
    stream = StreamDecoder(llama)
    assert "".join(stream.push([token]) for token in ids) + stream.finish() == wanted
    assert llama.encode_batch([text, text]) == [ids, ids]


def test_only_the_start_of_a_text_loses_its_space(llama: HuggingFaceTokenizer) -> None:
    ids = llama.encode("the cat")
    assert llama.decode(ids) == "the cat"
    assert llama.decode_bytes(ids) == b" the cat"
    stream = StreamDecoder(llama, begins_text=False)
    assert stream.push(ids) + stream.finish() == " the cat"
    assert llama.decode([1, *ids], skip_special=True) == "the cat"
    assert llama.encode("<s>a", allow_special=True)[0] == 1


def test_saved_and_loaded_it_is_the_same(llama: HuggingFaceTokenizer, tmp_path: Path) -> None:
    llama.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(again, HuggingFaceTokenizer)
    assert again.fingerprint == llama.fingerprint
    assert again.encode("Hello 🙂") == llama.encode("Hello 🙂")
    assert json.loads(again.tokenizers_json()) == json.loads(llama.tokenizers_json())
    other = HuggingFaceTokenizer(json.loads(llama.tokenizers_json()), bos_id=1, eos_id=1)
    assert other.fingerprint != llama.fingerprint


def test_the_model_may_have_more_rows_than_the_file_has_tokens() -> None:
    fields = byte_level()
    size = HuggingFaceTokenizer(fields, bos_id=None, eos_id=1).vocab_size
    wide = HuggingFaceTokenizer(fields, vocab_size=size + 10, bos_id=None, eos_id=1)
    assert wide.vocab_size == size + 10
    assert wide.decode([size, *wide.encode("cat"), size + 9]) == "cat"
    assert wide.token_bytes()[size:].sum() == 0
    assert tokenizer_from_json(wide.to_json()).vocab_size == size + 10
    with pytest.raises(JslmError, match="do not belong together"):
        HuggingFaceTokenizer(fields, vocab_size=size - 1, bos_id=None, eos_id=1)
    with pytest.raises(JslmError, match="outside the vocabulary"):
        HuggingFaceTokenizer(fields, bos_id=None, eos_id=size)


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        ({"type": "Fuse"}, b"ab"),
        ({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}, b"ab"),
        (None, b" a b"),
    ],
)
def test_decoders(decoder: dict[str, Any] | None, expected: bytes) -> None:
    library = LibraryTokenizer(models.WordLevel({"a": 0, "b": 1, "<0x0A>": 2, "[end]": 3}, unk_token="a"))
    fields = json.loads(library.to_str()) | {"decoder": decoder}
    tokenizer = HuggingFaceTokenizer(fields, bos_id=None, eos_id=3)
    assert tokenizer.decode_bytes([0, 1]) == expected
    assert tokenizer.decode([0, 1]) == LibraryTokenizer.from_str(json.dumps(fields)).decode([0, 1])
    if decoder and "decoders" in decoder:
        assert tokenizer.decode([0, 2]) == "a\n"


def test_what_cannot_be_decoded_piece_by_piece_is_refused() -> None:
    with pytest.raises(JslmError, match="decodes by 'WordPiece'"):
        HuggingFaceTokenizer(byte_level(type="WordPiece", prefix="##", cleanup=True), bos_id=None, eos_id=1)
    with pytest.raises(JslmError, match=r"no tokenizer\.json of the library"):
        HuggingFaceTokenizer({"model": {"type": "BPE"}}, bos_id=None, eos_id=1)
