"""Text to ids and back: `char`, `byte`, `bpe` (tokenizers) and `gpt2` (tiktoken), one `Tokenizer` for all; and for
imported models `hf` (any Hugging Face tokenizer) and `sentencepiece` (llama2.c's).

`build_tokenizer` makes one from a config and a corpus, `load_tokenizer` opens a saved `tokenizer.json`, and
`StreamDecoder` turns ids into text as they come. Importing this package imports neither numpy nor a tokenizer library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.tokenizer.base import END_OF_TEXT, Tokenizer
    from jslm.tokenizer.bpe import BpeTokenizer
    from jslm.tokenizer.build import build_tokenizer, check_tokenizer, load_tokenizer, tokenizer_from_json
    from jslm.tokenizer.byte import ByteTokenizer
    from jslm.tokenizer.char import UNKNOWN, CharTokenizer
    from jslm.tokenizer.gpt2 import Gpt2Tokenizer
    from jslm.tokenizer.hf import HuggingFaceTokenizer
    from jslm.tokenizer.sentencepiece import SentencePieceTokenizer
    from jslm.tokenizer.streaming import StreamDecoder

__all__ = [
    "END_OF_TEXT",
    "UNKNOWN",
    "BpeTokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "build_tokenizer",
    "check_tokenizer",
    "load_tokenizer",
    "tokenizer_from_json",
]

_MODULES = {
    "END_OF_TEXT": "base",
    "Tokenizer": "base",
    "BpeTokenizer": "bpe",
    "build_tokenizer": "build",
    "check_tokenizer": "build",
    "load_tokenizer": "build",
    "tokenizer_from_json": "build",
    "ByteTokenizer": "byte",
    "CharTokenizer": "char",
    "UNKNOWN": "char",
    "Gpt2Tokenizer": "gpt2",
    "HuggingFaceTokenizer": "hf",
    "SentencePieceTokenizer": "sentencepiece",
    "StreamDecoder": "streaming",
}


def __getattr__(name: str) -> Any:
    # PEP 562: a run with a byte tokenizer never pays for (or needs) the two libraries.
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.tokenizer.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.tokenizer' has no attribute {name!r}")
