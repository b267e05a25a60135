"""A sample of the corpus: what a tokenizer is trained on, and held against GPT-2's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from jslm.config import TokenizerConfig
from jslm.errors import JslmError
from jslm.prepare.encode import cut_text
from jslm.tokenizer import Tokenizer

STRETCH_CHARACTERS = 1 << 16
COMPARISON_BYTES = 1_000_000


def training_texts(texts: Iterable[str], config: TokenizerConfig, utf8_bytes: int) -> Iterator[str]:
    """What `tokenizer.train_share` or `train_megabytes` leaves of a corpus of `utf8_bytes`, drawn by `train_seed`.

    Each document, and of long ones each stretch of 64 kB, is drawn with the same probability. Raises JslmError where
    none is.
    """
    share = config.train_share
    if config.train_megabytes:
        share = min(1.0, config.train_megabytes * 1e6 / utf8_bytes)
    if share == 1.0:
        yield from texts
        return
    found = False
    for text in draw(texts, share, config.train_seed):
        found = True
        yield text
    if not found:
        key = "train_megabytes" if config.train_megabytes else "train_share"
        raise JslmError(
            f"tokenizer.{key} = {getattr(config, key):g} leaves nothing of a corpus of {utf8_bytes:,} bytes to train "
            "on; raise it, or leave it out to train on all of it"
        )


def draw(texts: Iterable[str], share: float, seed: int) -> Iterator[str]:
    """About `share` of the texts, long ones in stretches; memory: one text."""
    # random() is the one method of random.Random that Python promises never to change.
    generator = random.Random(seed)
    for text in texts:
        for stretch in cut_text(text, STRETCH_CHARACTERS, "before_spaces"):
            if generator.random() < share:
                yield stretch


def compare_with_gpt2(tokenizer: Tokenizer, texts: Iterable[str], utf8_bytes: int) -> str:
    """A line with the bytes a token of `tokenizer` and of GPT-2's, over a sample of the corpus of a megabyte.

    Empty where GPT-2's vocabulary is not on this machine; nothing is downloaded for a comparison.
    """
    # With tiktoken, which other kinds do without.
    import jslm.tokenizer.gpt2 as tiktoken

    if not tiktoken.is_cached():
        return ""
    sample: list[str] = []
    size = 0
    for text in draw(texts, min(1.0, 1.5 * COMPARISON_BYTES / utf8_bytes), seed=0):
        sample.append(text)
        size += len(text.encode("utf-8"))
        if size >= COMPARISON_BYTES:
            break
    ours = sum(map(len, tokenizer.encode_batch(sample)))
    gpt2 = sum(map(len, tiktoken.Gpt2Tokenizer().encode_batch(sample)))
    if not ours:
        return ""
    return (
        f"bytes per token, in a sample of {size / 1e6:.2f} MB: {size / ours:.2f} with these "
        f"{tokenizer.vocab_size:,} entries, {size / gpt2:.2f} with GPT-2's 50,257"
    )
