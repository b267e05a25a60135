"""Text to ids and back: `char`, `byte`, `bpe` (tokenizers) and `gpt2` (tiktoken), one `Tokenizer` for all; and for
imported models `hf` (any Hugging Face tokenizer) and `sentencepiece` (llama2.c's).

`build_tokenizer` makes one from a config and a corpus, `load_tokenizer` opens a saved `tokenizer.json`, and
`StreamDecoder` turns ids into text as they come. Importing this package imports neither numpy nor a tokenizer library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

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
    "END_OF_TEXT": "jslm.tokenizer.base",
    "Tokenizer": "jslm.tokenizer.base",
    "BpeTokenizer": "jslm.tokenizer.bpe",
    "build_tokenizer": "jslm.tokenizer.build",
    "check_tokenizer": "jslm.tokenizer.build",
    "load_tokenizer": "jslm.tokenizer.build",
    "tokenizer_from_json": "jslm.tokenizer.build",
    "ByteTokenizer": "jslm.tokenizer.byte",
    "CharTokenizer": "jslm.tokenizer.char",
    "UNKNOWN": "jslm.tokenizer.char",
    "Gpt2Tokenizer": "jslm.tokenizer.gpt2",
    "HuggingFaceTokenizer": "jslm.tokenizer.hf",
    "SentencePieceTokenizer": "jslm.tokenizer.sentencepiece",
    "StreamDecoder": "jslm.tokenizer.streaming",
}
__getattr__ = lazy_names(__name__, _MODULES)
