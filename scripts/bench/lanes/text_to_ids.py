"""Text to ids: jslm's tokenizers, or the libraries under them called as their own pages say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Encode = Callable[[Sequence[str]], Any]


class TokenizeLane:
    """The same text in two forms: case "documents" (many texts) and "one text"."""

    def __init__(self, spec: dict[str, Any]) -> None:
        text = Path(spec["text"]).read_text("utf-8")
        self.texts = {"documents": text.split("\n\n"), "one text": [text]}
        self.bytes = {case: sum(len(one.encode()) for one in texts) for case, texts in self.texts.items()}
        self.encode: Encode = _ENCODERS[spec["side"], spec["kind"]](Path(spec["tokenizer"]))
        library = "tiktoken" if spec["kind"] == "gpt2" else "tokenizers"
        versions = {"python": platform.python_version(), library: importlib.metadata.version(library)}
        self.facts = {"versions": versions}
        for case in self.texts:
            self.turn(case, 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """The whole text; the unit is a byte of UTF-8."""
        passes, started = 0, time.perf_counter()
        while passes == 0 or time.perf_counter() - started < seconds:
            self.encode(self.texts[case])
            passes += 1
        return passes * self.bytes[case], time.perf_counter() - started


def _jslm_bpe(saved: Path) -> Encode:
    from jslm.tokenizer import load_tokenizer

    return load_tokenizer(saved).encode_batch


def _jslm_gpt2(saved: Path) -> Encode:
    from jslm.tokenizer import Gpt2Tokenizer

    return Gpt2Tokenizer().encode_batch


def _library_bpe(saved: Path) -> Encode:
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(saved.with_name("library.json")))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in library.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def _library_gpt2(saved: Path) -> Encode:
    import tiktoken

    encoding, threads = tiktoken.get_encoding("gpt2"), len(os.sched_getaffinity(0))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return encoding.encode_ordinary_batch(list(texts), num_threads=threads)

    return encode


_ENCODERS: dict[tuple[str, str], Callable[[Path], Encode]] = {
    ("jslm", "bpe"): _jslm_bpe,
    ("jslm", "gpt2"): _jslm_gpt2,
    ("peer", "bpe"): _library_bpe,
    ("peer", "gpt2"): _library_gpt2,
}


def open_lane(spec: dict[str, Any]) -> TokenizeLane:
    """`spec`: side, kind, text (a file), tokenizer (jslm's file, with the library's `library.json` beside it)."""
    return TokenizeLane(spec)
