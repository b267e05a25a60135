"""GPT-2's vocabulary: known ids, long runs, and what happens without a network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jslm import JslmError
from jslm.tokenizer import Gpt2Tokenizer, gpt2


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        # Port 9 of this machine refuses at once, with a network or without.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    gpt2._load_encoding.cache_clear()
    yield
    gpt2._load_encoding.cache_clear()


def test_known_ids(gpt2_tokenizer: Gpt2Tokenizer) -> None:
    assert gpt2_tokenizer.encode("hello world") == [31373, 995]
    assert gpt2_tokenizer.encode_batch(["hello world", ""]) == [[31373, 995], []]
    # The spelling of the special token as ordinary text, from tiktoken's own documentation.
    assert gpt2_tokenizer.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2_tokenizer.encode("<|endoftext|>", allow_special=True) == [50256]
    assert gpt2_tokenizer.eot_id == 50256
    assert gpt2_tokenizer.special_tokens == {"<|endoftext|>": 50256, "<|user|>": 50257, "[SEP]": 50258}
    assert gpt2_tokenizer.vocab_size == 50259
    assert gpt2_tokenizer.id_to_token(995) == " world"
    assert gpt2_tokenizer.id_to_token(198) == "\\n"


def test_the_saved_file_holds_no_vocabulary(gpt2_cache: Path) -> None:
    assert gpt2_cache.is_dir()
    tokenizer = Gpt2Tokenizer()
    assert tokenizer.vocab_size == 50257
    # Golden: token files and checkpoints carry it, so it may never change.
    assert tokenizer.fingerprint == "121d007c83d99435"
    assert len(tokenizer.to_json()) < 500


def test_counts_of_tiny_shakespeare(gpt2_tokenizer: Gpt2Tokenizer, assets: Path) -> None:
    text = (assets / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    # The counts that nanoGPT's README gives.
    assert [len(ids) for ids in gpt2_tokenizer.encode_batch([text[:cut], text[cut:]])] == [301966, 36059]


def test_long_runs_of_white_space(gpt2_tokenizer: Gpt2Tokenizer) -> None:
    n = 1_000_001
    space, x, a, space_a, newline, two_newlines = 220, 87, 64, 257, 198, 628
    expected = [x, *[space] * (n - 1), space_a]
    # Arrays: pytest would explain for minutes how two lists of a million differ.
    assert np.array_equal(gpt2_tokenizer.encode("x" + " " * n + "a"), expected)
    first, long, last = gpt2_tokenizer.encode_batch(["a", "x" + " " * n + "a", "x"])
    assert [first, last] == [[a], [x]]
    assert np.array_equal(long, expected)
    newlines = [x, *[two_newlines] * (n // 2), newline, a]
    assert np.array_equal(gpt2_tokenizer.encode("x" + "\n" * n + "a"), newlines)
    assert np.array_equal(gpt2_tokenizer.encode(" " * n), [space] * n)


@pytest.mark.parametrize("pattern", ["a", "!", "é", "ab", "\u3000x"])
def test_long_runs_of_other_text(gpt2_tokenizer: Gpt2Tokenizer, pattern: str) -> None:
    text = pattern * 200_000
    started = time.perf_counter()
    ids = gpt2_tokenizer.encode(text)
    # 0.1 s; the square of the length would take a minute.
    assert time.perf_counter() - started < 10
    assert gpt2_tokenizer.decode(ids) == text


def test_runs_are_cut_only_where_tiktoken_needs_it(gpt2_tokenizer: Gpt2Tokenizer) -> None:
    encoding = gpt2._load_encoding()
    for white in (" ", "\n", "\u3000", " \t"):
        text = "word" + white * 450_000 + "x y" + white * 450_000
        assert len(gpt2._split(text)) == 2
        assert np.array_equal(gpt2_tokenizer.encode(text), encoding.encode_ordinary(text))


@pytest.mark.usefixtures("_no_network")
def test_without_network_or_files_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(JslmError, match="set TIKTOKEN_CACHE_DIR to their folder") as caught:
        Gpt2Tokenizer()
    assert time.perf_counter() - started < 20
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert "6d1cbeee0f20b3d9449abfede4726ed8212e3aee and 6c7ea1a7e38e3a7f062df639a5b80947f075ffe6" in message


@pytest.mark.usefixtures("_no_network")
def test_a_damaged_cached_file_is_not_used(gpt2_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in gpt2_cache.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert Gpt2Tokenizer().encode("hello world") == [31373, 995]
    damaged = next(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-10])
    gpt2._load_encoding.cache_clear()
    with pytest.raises(JslmError, match="TIKTOKEN_CACHE_DIR"):
        Gpt2Tokenizer()


def test_the_cached_files_are_named_as_tiktoken_names_them(gpt2_cache: Path) -> None:
    assert {gpt2._cache_name(file) for file in gpt2._FILES} == {file.name for file in gpt2_cache.iterdir()}
    assert gpt2.is_cached()
