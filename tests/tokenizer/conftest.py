"""The four kinds of tokenizer, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer

CORPUS = [
    "Once upon a time there was a little cat. The cat didn't like the rain, and it said: \"I'll stay here!\"\n\n",
    "The little dog liked the rain. It ran and ran — 1234 times — until the café closed.\r\n\tThe end. 漢字 🙂\n",
] * 3
SPECIAL_TOKENS = ("<|user|>", "[SEP]")


@pytest.fixture(scope="session")
def char_tokenizer() -> CharTokenizer:
    """Characters of CORPUS."""
    return CharTokenizer.train(CORPUS, SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    """256 bytes and three special tokens."""
    return ByteTokenizer(SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def bpe_tokenizer() -> BpeTokenizer:
    """Pieces of CORPUS."""
    return BpeTokenizer.train(CORPUS, 300, SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def gpt2_cache(assets: Path) -> Iterator[Path]:
    """tiktoken reads its two files from the assets."""
    folder = assets / "tiktoken_cache"
    if not folder.is_dir():
        pytest.skip("no folder tiktoken_cache among the assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def gpt2_tokenizer(gpt2_cache: Path) -> Gpt2Tokenizer:
    """GPT-2's vocabulary and two extra special tokens."""
    del gpt2_cache
    return Gpt2Tokenizer(SPECIAL_TOKENS)


@pytest.fixture(scope="session", params=["char", "byte", "bpe", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind in turn."""
    made: Tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    return made
