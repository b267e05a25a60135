"""SentencePiece's BPE by scores, against the plain algorithm of llama2.c's run.c."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.formats.llama2c.tokenizer import read_tokenizer
from jslm.tokenizer import StreamDecoder, load_tokenizer
from jslm.tokenizer.sentencepiece import SentencePieceTokenizer

SPECIAL = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]


def make(pieces: dict[str, float], **options: Any) -> SentencePieceTokenizer:
    return SentencePieceTokenizer([*SPECIAL, *pieces], [0.0] * len(SPECIAL) + list(pieces.values()), **options)


def naive(tokenizer: SentencePieceTokenizer, text: str) -> list[int]:
    """Step by step as run.c: characters, bytes for those unknown, then the best pair again and again."""
    ids: dict[str, int] = {}
    for token, piece in enumerate(tokenizer.pieces[259:], 259):
        ids.setdefault(piece, token)
    tokens: list[int] = []
    for char in f" {text}" if text else "":
        tokens += [ids[char]] if char in ids else [3 + byte for byte in char.encode()]
    while True:
        best, where, joined = -1e10, -1, -1
        for index in range(len(tokens) - 1):
            left, right = tokens[index : index + 2]
            found = ids.get(tokenizer.pieces[left] + tokenizer.pieces[right])
            if found is not None and tokenizer.scores[found] > best:
                best, where, joined = tokenizer.scores[found], index, found
        if where < 0:
            return tokens
        tokens[where : where + 2] = [joined]


alphabet = st.sampled_from(" abé<")
vocabularies = st.dictionaries(
    st.text(alphabet, min_size=1, max_size=4),
    st.integers(-4, 2).map(float) | st.just(-1e11),
    max_size=25,
)


@given(pieces=vocabularies, text=st.text(st.sampled_from(" abé<\0漢"), max_size=25))
@settings(max_examples=400, deadline=None)
def test_ids_are_those_of_the_plain_algorithm(pieces: dict[str, float], text: str) -> None:
    tokenizer = make(pieces)
    ids = tokenizer.encode(text)
    assert ids == naive(tokenizer, text)
    assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def stories(assets: Path) -> SentencePieceTokenizer:
    return read_tokenizer(assets / "checkpoints" / "stories260K" / "tok512.bin")


@given(text=st.lists(st.sampled_from(["  ", "\n\n", "the ", "Once upon", "'ll"]) | st.text(max_size=5)).map("".join))
@settings(max_examples=150, deadline=None)
def test_real_vocabulary(stories: SentencePieceTokenizer, text: str) -> None:
    ids = stories.encode(text)
    assert ids == naive(stories, text)
    assert stories.encode_batch([text, ""]) == [ids, []]
    assert stories.decode(ids) == text
    assert stories.decode([1, *ids, 2], skip_special=True) == text
    assert stories.decode(stories.encode(text, allow_special=True)) == text
    stream = StreamDecoder(stories)
    assert "".join(stream.push([token]) for token in ids) + stream.finish() == text


def test_real_text(stories: SentencePieceTokenizer, assets: Path) -> None:
    text = (assets / "tinystories" / "v2_valid_head_0.8MB.txt").read_text("utf-8")[:3000]
    ids = stories.encode(text)
    assert ids == naive(stories, text)
    assert stories.decode(ids) == text
    assert len(ids) < len(text) / 2
    assert stories.id_to_token(ids[0]).startswith(" ")


def test_special_tokens_and_continuations(stories: SentencePieceTokenizer) -> None:
    assert (stories.bos_id, stories.eot_id) == (1, 1)
    assert make({}).eot_id == 2
    assert stories.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    text = "a<s> b</s>c"
    assert not {0, 1, 2} & set(stories.encode(text))
    ids = stories.encode(text, allow_special=True)
    assert [token for token in ids if token < 3] == [1, 2]
    assert stories.decode(ids) == text
    once, upon = stories.encode("Once"), stories.encode("upon")
    assert stories.decode_bytes(upon) == b" upon"
    assert stories.decode([*once, *upon]) == "Once upon"
    assert stories.decode(stories.encode("a\ud83d")) == "a\ufffd"
    assert stories.token_bytes()[[0, 1, 2]].sum() == 0


def test_long_words_take_no_quadratic_time() -> None:
    tokenizer = make({"a": 0.0, "aa": -1.0, "aaaa": -2.0, "b c": -3.0})
    assert tokenizer.encode("a" * 200_000) == [*tokenizer.encode(""), 35, *[261] * 50_000]


def test_json_keeps_everything(stories: SentencePieceTokenizer, tmp_path: Path) -> None:
    again = SentencePieceTokenizer.from_fields(json.loads(stories.to_json()))
    assert (again.pieces, again.scores, again.eot_id) == (stories.pieces, stories.scores, stories.eot_id)
    assert again.fingerprint == stories.fingerprint
    others = [
        make({"a": 0.0}),
        make({"b": 0.0}),
        make({"a": 1.0}),
        make({"a": 0.0}, end_of_text="<s>"),
    ]
    assert len({other.fingerprint for other in others}) == 4
    stories.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == stories.fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pieces, scores: pieces.pop(), "266 pieces, but 267"),
        (lambda pieces, scores: pieces.__setitem__(5, "<0xFF>"), "token 5 is '<0xFF>'"),
        (lambda pieces, scores: pieces.__setitem__(1, "<bos>"), "token 1 is '<bos>'"),
        (lambda pieces, scores: pieces.__setitem__(260, ""), "token 260 is empty"),
        (lambda pieces, scores: scores.__setitem__(260, float("nan")), "score of token 260 is nan"),
        (lambda pieces, scores: (pieces.__delitem__(slice(9, None)), scores.__delitem__(slice(9, None))), "'missing'"),
    ],
)
def test_bad_vocabularies(change: Callable[[list[str], list[float]], Any], said: str) -> None:
    pieces, scores = [*SPECIAL, *"abcdefgh"], [0.0] * 267
    change(pieces, scores)
    with pytest.raises(ValueError, match=said):
        SentencePieceTokenizer(pieces, scores)
    with pytest.raises(ValueError, match="expected '</s>' or '<s>'"):
        make({}, end_of_text="<pad>")


def test_saved_file_that_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(make({"a": 0.0}).to_json().replace("<0x05>", "five"), "utf-8")
    with pytest.raises(JslmError, match=r"tokenizer\.json"):
        load_tokenizer(path)
