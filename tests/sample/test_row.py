from __future__ import annotations

import pytest

from jslm.config import SampleConfig
from jslm.infer.request import Request, make_request
from jslm.infer.row import Row
from jslm.tokenizer import ByteTokenizer, CharTokenizer

BYTES = ByteTokenizer()


def asks(*stop: str) -> Request:
    return make_request(SampleConfig(), stop=stop)


def write(text: bytes, stop: tuple[str, ...] = (), limit: int = 100) -> tuple[Row, list[str]]:
    """A row that is given the bytes one by one until it ends, and the pieces that it lets go meanwhile."""
    row = Row("", [BYTES.eot_id], 0, limit, BYTES, asks(*stop))
    pieces = []
    for token in [*text, BYTES.eot_id]:
        row.push(token, -1.0)
        pieces.append(row.take())
        if not row.left:
            break
    return row, pieces


def test_end_of_text_is_no_part_of_the_result() -> None:
    row, pieces = write(b"abc")
    assert row.result().tokens == list(b"abc")
    assert row.result().logprobs == [-1.0] * 3
    assert (row.text, row.finish_reason, pieces) == ("abc", "stop", ["a", "b", "c", ""])


def test_limit_ends_with_length() -> None:
    row, _ = write(b"abcdef", limit=3)
    assert (row.text, row.result().finish_reason, row.left) == ("abc", "length", 0)


def test_characters_come_whole() -> None:
    row, pieces = write("aé☃b".encode())
    assert pieces == ["a", "", "é", "", "", "☃", "b", ""]
    assert row.text == "aé☃b"


def test_character_cut_by_the_limit_is_left_out() -> None:
    row, pieces = write("a☃".encode(), limit=3)
    assert (row.text, "".join(pieces)) == ("a", "a")
    assert len(row.tokens) == 3


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one. two.", (".",), "one"),
        ("a\n\nb", ("\n\n",), "a"),
        ("aab", ("ab",), "a"),
        ("xyz", ("never",), "xyz"),
        ("one END two", ("two", "END"), "one "),
        ("stop", ("stop",), ""),
        ("naïve☃end", ("☃e",), "naïve"),
        ("aaab", ("aab",), "a"),
    ],
)
def test_stop_strings_cut_the_text_and_are_never_shown(text: str, stop: tuple[str, ...], kept: str) -> None:
    row, pieces = write(text.encode(), stop)
    assert (row.text, "".join(pieces)) == (kept, kept)
    assert bytes(row.tokens).decode() == kept
    assert len(row.logprobs) == len(row.tokens)
    assert row.finish_reason == "stop"


def test_what_might_begin_a_stop_string_waits() -> None:
    _, pieces = write(b"ab ENx", ("END",))
    assert pieces == ["a", "b", " ", "", "", "ENx", ""]


def test_text_held_back_is_let_go_at_the_end() -> None:
    _, pieces = write(b"abEN", ("END",))
    assert "".join(pieces) == "abEN"
    row, pieces = write(b"abEN", ("END",), limit=4)
    assert (row.text, "".join(pieces)) == ("abEN", "abEN")


def test_stop_string_inside_a_token_keeps_the_token_that_it_begins_in() -> None:
    """A token of several characters stays whole in `tokens` where only its beginning is kept."""

    class Words(CharTokenizer):
        def __init__(self) -> None:
            super().__init__("ab")
            self._pieces[2:] = [b"one. ", b"two"]

    row = Row("", [0], 0, 9, Words(), asks("tw", "."))
    row.push(2, -0.5)
    assert (row.text, row.tokens, row.logprobs, row.finish_reason) == ("one", [2], [-0.5], "stop")
    row = Row("", [0], 0, 9, Words(), asks("tw"))
    row.push(2, -0.5)
    row.push(3, -0.7)
    assert (row.text, row.tokens, row.logprobs, row.finish_reason) == ("one. ", [2], [-0.5], "stop")
