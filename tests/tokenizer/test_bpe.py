"""Byte-level BPE: training, determinism, long texts, the library's file."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.tokenizer import BpeTokenizer, splitting

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", ""]


def test_merges_are_learnt_by_frequency() -> None:
    tokenizer = BpeTokenizer.train(["aab aab aab cd cd x"], 262)
    # " c" and "cd" occur twice, "aa" and "ab" three times: room for five merges is room for "aab", " aab" and " cd".
    assert tokenizer.vocab_size == 262
    assert [tokenizer.id_to_token(token) for token in tokenizer.encode("aab aab cd x")] == [
        "aab",
        " aab",
        " cd",
        " ",
        "x",
    ]


def test_training_twice_gives_the_same_tokenizer() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(200)]
    first = BpeTokenizer.train(texts, 290)
    assert BpeTokenizer.train(iter(texts), 290).to_json() == first.to_json()


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    tokenizer = BpeTokenizer.train(["abab"], 4096)
    assert tokenizer.vocab_size == 258
    assert BpeTokenizer.train(["a"], 4096).vocab_size == 257
    assert BpeTokenizer.train(["a"], 4096).decode(tokenizer.encode("zö")) == "zö"


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(JslmError, match=r"vocab_size = 258 .* use at least 259"):
        BpeTokenizer.train(["text"], 258, ["<|user|>", "<|bot|>"])
    assert BpeTokenizer.train(["text text"], 259, ["<|user|>", "<|bot|>"]).vocab_size == 259


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_corpus_is_refused(texts: list[str]) -> None:
    with pytest.raises(JslmError, match="corpus has no text"):
        BpeTokenizer.train(texts, 300)


def test_an_error_in_the_corpus_reaches_the_caller() -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        raise JslmError("books/3.txt: not UTF-8")

    with pytest.raises(JslmError, match=r"books/3\.txt"):
        BpeTokenizer.train(texts(), 300)


@pytest.mark.parametrize("name", ["SEP", "a"])
def test_a_special_token_spelled_like_a_learnt_one_is_refused(name: str) -> None:
    with pytest.raises(JslmError, match=rf"'{name}' is also an ordinary token"):
        BpeTokenizer.train(["SEP SEP SEP SEP"], 300, [name])


@given(parts=st.lists(st.sampled_from(["the cat", " ", "\n", "\t", "  \n", "don't", "…", "\x1c", "\u3000", "9"])))
@settings(max_examples=25, deadline=None)
def test_cutting_a_long_text_does_not_change_its_ids(bpe_tokenizer: BpeTokenizer, parts: list[str]) -> None:
    # The library sees the uncut text; jslm cuts it about every 16,384 characters.
    library = tokenizers.Tokenizer.from_str(bpe_tokenizer.tokenizers_json())
    text = "".join(parts) * (40_000 // max(1, len("".join(parts))))
    assert bpe_tokenizer.encode(text) == library.encode(text).ids


def test_very_long_words_and_gaps() -> None:
    rng = random.Random(0)
    blob = "".join(rng.choices("abcdefghijklmnop0123456789+/", k=300_000))
    tokenizer = BpeTokenizer.train([blob, "a" * 300_000, " " * 300_000 + "x", "\n" * 300_000], 400)
    for text in ("a" * 300_000, " " * 300_000 + "x", "\n" * 300_000, blob):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text)
    # Longest first: nothing was learnt across a cut.
    assert tokenizer.token_bytes().max() <= 2048


def test_cutting_takes_time_in_proportion() -> None:
    started = time.perf_counter()
    for text in (("a" * 2047 + " ") * 500, ("\t" * 2047 + "a") * 500, " " * 1_000_000, "字" * 1_000_000):
        for pieces in (list(splitting.split_before_spaces(text, 16_384)), list(splitting.split_long_words(text))):
            assert "".join(pieces) == text
        assert "".join(splitting.split_long_runs(text)) == text
    # 0.1 s; the square of the length would take hours.
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("char", ["a", " "])
def test_long_words_are_cut_for_training(char: str) -> None:
    assert list(splitting.split_long_words(char * 2048)) == [char * 2048]
    other = "-" if char == " " else "\n"
    text = f"{other}{char * 5000}{other}"
    assert [len(piece) for piece in splitting.split_long_words(text)] == [2049, 2048, 905]


def test_the_library_reads_the_exported_file(bpe_tokenizer: BpeTokenizer) -> None:
    library = tokenizers.Tokenizer.from_str(bpe_tokenizer.tokenizers_json())
    assert library.get_vocab_size() == bpe_tokenizer.vocab_size
    for text in ("The little cat didn't, <|user|> and 漢字 🙂[SEP]\n\n  x", "<|endoftext|>"):
        ids = library.encode(text).ids
        assert ids == bpe_tokenizer.encode(text, allow_special=True)
        assert library.decode(ids, skip_special_tokens=False) == text


def test_numbers_contractions_and_spaces_are_cut_as_in_gpt2() -> None:
    tokenizer = BpeTokenizer.train(["we'll we'll  x12 x12 x12"] * 9, 500)
    shown = [tokenizer.id_to_token(token) for token in tokenizer.encode("we'll  x12")]
    assert shown == ["we", "'ll", " ", " x", "12"]
