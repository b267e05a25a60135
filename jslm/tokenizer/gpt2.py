"""GPT-2's vocabulary of 50,257, by OpenAI's `tiktoken`."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tiktoken
from jaxtyping import UInt32

from jslm.errors import JslmError
from jslm.tokenizer.base import END_OF_TEXT, Tokenizer, extra_special_tokens, replace_surrogates, special_token_ids
from jslm.tokenizer.splitting import encode_in_pieces, split_long_runs

_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
# SHA-256 of the two files, as tiktoken itself checks them.
_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
_CONNECT_SECONDS = 5.0


class Gpt2Tokenizer(Tokenizer):
    """Ids of GPT-2: `<|endoftext|>` is 50256, and extra special tokens follow from 50257 on.

    tiktoken downloads the vocabulary once and keeps it in `TIKTOKEN_CACHE_DIR`.
    """

    kind = "gpt2"
    cuts = "before_spaces"

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        """`special_tokens` are extra ones.

        Raises JslmError where one is empty or comes twice, or where the vocabulary cannot be had.
        """
        self._library = _load_encoding()
        n_ordinary = self._library.eot_token
        special = special_token_ids([END_OF_TEXT], special_tokens, first_id=n_ordinary)
        ordinary = [self._library.decode_single_token_bytes(token) for token in range(n_ordinary)]
        super().__init__([*ordinary, *(name.encode() for name in special)], special)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Gpt2Tokenizer:
        """The tokenizer of a saved file's JSON object, which holds no vocabulary but its fingerprint."""
        return cls(extra_special_tokens(fields, [END_OF_TEXT]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, by tiktoken's threads."""
        return encode_in_pieces(texts, _split, self._library.encode_ordinary_batch)

    def encode_arrays(self, texts: Sequence[str]) -> list[UInt32[np.ndarray, " ids"]]:
        """`encode_batch` as vectors, on this thread alone."""
        return [
            np.concatenate([self._library.encode_to_numpy(piece, disallowed_special=()) for piece in _split(text)])
            for text in texts
        ]

    def _encode_ordinary(self, text: str) -> list[int]:
        return [token for piece in _split(text) for token in self._library.encode_ordinary(piece)]


def _split(text: str) -> list[str]:
    return split_long_runs(replace_surrogates(text))


@functools.cache
def _load_encoding() -> tiktoken.Encoding:
    try:
        if not is_cached():
            # tiktoken waits for a silent network without limit; one request with a limit finds out first.
            requests.head(_URL + "vocab.bpe", timeout=_CONNECT_SECONDS).close()
        return tiktoken.get_encoding("gpt2")
    except (requests.RequestException, OSError, ValueError) as error:
        names = " and ".join(_cache_name(file) for file in _FILES)
        raise JslmError(
            f"tokenizer.kind = 'gpt2': the vocabulary is not in {_cache_folder() or 'any cache'} and cannot be "
            f"downloaded ({type(error).__name__}); copy tiktoken's cached files {names} from a machine that has them, "
            "and set TIKTOKEN_CACHE_DIR to their folder"
        ) from error


def is_cached() -> bool:
    """Whether the vocabulary is on this machine, so that a `Gpt2Tokenizer` needs no network."""
    folder = _cache_folder()
    if not folder:
        return False
    paths = {Path(folder, _cache_name(file)): digest for file, digest in _FILES.items()}
    return all(path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == paths[path] for path in paths)


def _cache_name(file: str) -> str:
    """tiktoken names a cached file after the SHA-1 of its URL."""
    return hashlib.sha1((_URL + file).encode(), usedforsecurity=False).hexdigest()


def _cache_folder() -> str:
    """The folder where tiktoken looks; empty where its cache is turned off."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    return os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
