"""What holds for every kind of tokenizer."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.tokenizer import CharTokenizer, StreamDecoder, Tokenizer, load_tokenizer

KNOWN = sorted(set("Once upon a time, didn't 1234 — café\r\n\t漢字 🙂"))
SPECIAL_TEXT = "a<|endoftext|>b<|user|><|user|> [SEP]"


def texts_for(tokenizer: Tokenizer) -> st.SearchStrategy[str]:
    """Text that the tokenizer can hold: any Unicode, but for `char` its own alphabet."""
    if isinstance(tokenizer, CharTokenizer):
        return st.text(st.sampled_from(KNOWN))
    words = st.sampled_from(["<|endoftext|>", "  ", "\n\n ", "the ", "'ll", "\x1c", "\u3000", "e\u0301", "🙂"])
    return st.lists(words | st.text(max_size=6), max_size=12).map("".join)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    text = data.draw(texts_for(tokenizer))
    ids = tokenizer.encode(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids, skip_special=True) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert tokenizer.encode_batch([text, "", text]) == [ids, [], ids]
    assert [array.tolist() for array in tokenizer.encode_arrays([text, "", text])] == [ids, [], ids]
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text
    assert tokenizer.unknown_characters(text) == []


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_streaming_equals_decoding_at_once(tokenizer: Tokenizer, data: st.DataObject) -> None:
    # Mostly bytes and special tokens, so that characters are cut, broken and interrupted in every way.
    low = st.integers(0, min(300, tokenizer.vocab_size) - 1)
    ids = data.draw(st.lists(low | st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    skip_special = data.draw(st.booleans())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    stream = StreamDecoder(tokenizer, skip_special=skip_special)
    parts = [stream.push(ids[i:j]) for i, j in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    whole = tokenizer.decode(ids, skip_special=skip_special)
    assert "".join(parts) + stream.finish() == whole
    assert whole == tokenizer.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")


def test_streaming_never_shows_half_a_character(byte_tokenizer: Tokenizer) -> None:
    stream = StreamDecoder(byte_tokenizer)
    assert [stream.push([byte]) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert stream.push("🙂".encode()[:2]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(b"a") + stream.finish() == "a"


def test_special_tokens_are_text_unless_allowed(tokenizer: Tokenizer) -> None:
    alphabet = CharTokenizer.train([SPECIAL_TEXT], ["<|user|>", "[SEP]"])
    tokenizer = alphabet if tokenizer.kind == "char" else tokenizer
    special = tokenizer.special_tokens
    assert tokenizer.eot_id == special["<|endoftext|>"]

    ordinary = tokenizer.encode(SPECIAL_TEXT)
    assert not set(ordinary) & set(special.values())
    assert tokenizer.encode_batch([SPECIAL_TEXT]) == [ordinary]
    assert tokenizer.decode(ordinary) == SPECIAL_TEXT

    user = special["<|user|>"]
    a, b, space = (tokenizer.encode(char) for char in "ab ")
    ids = tokenizer.encode(SPECIAL_TEXT, allow_special=True)
    assert ids == [*a, tokenizer.eot_id, *b, user, user, *space, special["[SEP]"]]
    assert tokenizer.decode(ids) == SPECIAL_TEXT
    assert tokenizer.decode(ids, skip_special=True) == "ab "
    assert tokenizer.decode_bytes(ids, skip_special=True) == b"ab "
    assert (tokenizer.token_bytes()[[tokenizer.eot_id, user]] == 0).all()
    assert tokenizer.id_to_token(user) == "<|user|>"


def test_extra_special_tokens_follow_the_fixed_ones(
    char_tokenizer: Tokenizer, byte_tokenizer: Tokenizer, bpe_tokenizer: Tokenizer
) -> None:
    extra = ["<|user|>", "[SEP]"]
    assert list(char_tokenizer.special_tokens.items()) == list(
        zip(["<|endoftext|>", "<|unk|>", *extra], range(4), strict=True)
    )
    assert byte_tokenizer.special_tokens == dict(zip(["<|endoftext|>", *extra], range(256, 259), strict=True))
    assert bpe_tokenizer.special_tokens == dict(zip(["<|endoftext|>", *extra], range(3), strict=True))


def test_ids_outside_the_vocabulary_are_named(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    for bad in (size, -1):
        for ids in ([0, bad], np.array([0, bad]), iter([0, bad])):
            with pytest.raises(JslmError, match=rf"token id {bad} is outside the vocabulary of {size} "):
                tokenizer.decode(ids)
        with pytest.raises(JslmError, match=f"token id {bad}"):
            tokenizer.id_to_token(bad)
    assert isinstance(tokenizer.decode([size - 1]), str)


def test_arrays_decode_as_lists_do(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the cat")
    for dtype in (np.uint16, np.int32, np.int64):
        assert tokenizer.decode(np.array(ids, dtype)) == "the cat"
    assert tokenizer.decode(token for token in ids) == "the cat"
    assert tokenizer.decode([]) == "" == tokenizer.decode(np.array([], np.int32))


def test_token_bytes_counts_every_id(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    assert lengths.shape == (tokenizer.vocab_size,)
    special = set(tokenizer.special_tokens.values()) - {tokenizer.special_tokens.get("<|unk|>")}
    assert {int(token) for token in np.flatnonzero(lengths == 0)} == special


def test_display_forms_are_printable(tokenizer: Tokenizer) -> None:
    for token in range(min(tokenizer.vocab_size, 2000)):
        shown = tokenizer.id_to_token(token)
        assert shown
        assert shown.isprintable()


def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    text = "a\ud83d c\ude00"
    assert tokenizer.decode(tokenizer.encode(text)) == "a\ufffd c\ufffd"
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]
    if tokenizer.kind != "char":
        assert tokenizer.decode(tokenizer.encode("\ufeff\ud83d\ude00")) == "\ufeff\U0001f600"


def test_save_and_load_keep_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    tokenizer.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    for other in (load_tokenizer(path), load_tokenizer(str(path)), pickle.loads(pickle.dumps(tokenizer))):
        assert type(other) is type(tokenizer)
        assert other.fingerprint == tokenizer.fingerprint
        assert other.special_tokens == tokenizer.special_tokens
        assert other.vocab_size == tokenizer.vocab_size
        assert other.to_json() == tokenizer.to_json()
        text = "The little cat didn't like\n\nthe rain. [SEP] 漢字"
        assert other.encode(text) == tokenizer.encode(text)
        assert other.encode(text, allow_special=True) == tokenizer.encode(text, allow_special=True)


def test_threads_get_the_same_ids(tokenizer: Tokenizer) -> None:
    texts = [f"the cat ran {n} times and the dog liked it" for n in (1, 2, 3, 4)] * 20
    expected = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == expected


def test_importing_the_package_is_light() -> None:
    heavy = ("numpy", "tokenizers", "tiktoken", "jax", "requests")
    code = f"import sys, jslm.tokenizer; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
    code = "import sys, jslm.tokenizer as t; t.ByteTokenizer(); t.load_tokenizer; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"tokenizers", "tiktoken", "jax"} & set(found.stdout.split())
