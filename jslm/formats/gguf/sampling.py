"""Sampling settings as keys of a GGUF file: llama.cpp's programs take those under `general.sampling` as their defaults.

Named in llama.cpp's `src/llama-arch.cpp` and read in its `common/common.cpp`. What has no name there is under `jslm.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.config.schema import SampleConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

_GENERAL = "general.sampling."
# Ours, and llama.cpp's.
_FLOATS = {"temperature": "temp", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat"}
_RANGES = {"temperature": (0.0, 1e6), "top_p": (1e-6, 1.0), "min_p": (0.0, 1.0), "repetition_penalty": (1e-6, 1e6)}
_LENGTH = "jslm.sample.max_new_tokens"


def write_sampling(writer: GGUFWriter, sample: SampleConfig) -> None:
    """Adds the settings that `jslm sample` would use."""
    for ours, theirs in _FLOATS.items():
        writer.add_float32(_GENERAL + theirs, getattr(sample, ours))
    # No limit is 0 in both. Of how many tokens a repetition counts: in jslm of all.
    writer.add_int32(f"{_GENERAL}top_k", sample.top_k)
    writer.add_int32(f"{_GENERAL}penalty_last_n", -1)
    writer.add_uint32(_LENGTH, sample.max_new_tokens)


def sampling_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `[sample]` that the file says and that make sense; an empty table where it says none."""
    found: dict[str, Any] = {}
    for ours, theirs in _FLOATS.items():
        value = metadata.get(_GENERAL + theirs)
        lowest, highest = _RANGES[ours]
        if isinstance(value, float) and lowest <= value <= highest:
            found[ours] = float(str(np.float32(value)))
    top_k, length = metadata.get(f"{_GENERAL}top_k"), metadata.get(_LENGTH)
    if type(top_k) is int:
        found["top_k"] = max(top_k, 0)
    if type(length) is int and length > 0:
        found["max_new_tokens"] = length
    return found
