"""Character tokenizer: alphabet, unknown characters, large texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm import JslmError
from jslm.tokenizer import UNKNOWN, CharTokenizer


def test_ids_are_in_code_point_order_after_the_special_tokens() -> None:
    tokenizer = CharTokenizer.train(["ba", "🙂a"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, UNKNOWN: 1}
    assert tokenizer.encode("ab🙂") == [2, 3, 4]
    assert tokenizer.vocab_size == 5
    assert tokenizer.token_bytes().tolist() == [0, 1, 1, 1, 4]


def test_unknown_characters_are_marked_and_never_raise() -> None:
    tokenizer = CharTokenizer.train(["hello"])
    text = "hello wörld\U0010ffff\x00\ud800w"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "hello\ufffd\ufffd\ufffd\ufffdl\ufffd\ufffd\ufffd\ufffd\ufffd"
    assert tokenizer.decode(ids, skip_special=True) == tokenizer.decode(ids)
    assert tokenizer.unknown_characters(text) == ["\x00", " ", "d", "r", "w", "ö", "\ud800", "\U0010ffff"]
    assert tokenizer.unknown_characters("hello") == []
    assert tokenizer.id_to_token(ids[5]) == UNKNOWN


@given(alphabet=st.text(min_size=1), text=st.text(st.characters()))
def test_encoding_follows_the_definition(alphabet: str, text: str) -> None:
    tokenizer = CharTokenizer.train([alphabet])
    order = sorted(set(alphabet))
    assert tokenizer.encode(text) == [2 + order.index(char) if char in order else 1 for char in text]


def test_surrogates_are_no_part_of_the_alphabet() -> None:
    assert CharTokenizer.train(["a\ud800"]).fingerprint == CharTokenizer.train(["a"]).fingerprint


def test_a_special_token_may_be_one_character() -> None:
    tokenizer = CharTokenizer.train(["ab"], ["a"])
    assert tokenizer.encode("ab") == [3, 4]
    assert tokenizer.encode("ab", allow_special=True) == [2, 4]


@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_corpus_is_refused(texts: list[str]) -> None:
    with pytest.raises(JslmError, match="corpus has no text"):
        CharTokenizer.train(texts)
