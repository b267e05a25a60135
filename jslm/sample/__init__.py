"""verb: text from a trained model. `load` opens a run folder as a `LanguageModel`. Imports JAX only when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.sample.ahead import trace_decode
    from jslm.sample.chat import Chat
    from jslm.sample.language_model import LanguageModel
    from jslm.sample.loading import load
    from jslm.sample.options import Arguments, Options, RewriteArguments, resolve_options
    from jslm.sample.rewrite import Rewrite, rewrite_prompt
    from jslm.sample.row import FinishReason, Result, Row
    from jslm.sample.samplers import (
        Sampling,
        draw_tokens,
        filter_logits,
        likeliest_tokens,
        penalise_repetition,
        sample_keys,
    )

__all__ = [
    "Arguments",
    "Chat",
    "FinishReason",
    "LanguageModel",
    "Options",
    "Result",
    "Rewrite",
    "RewriteArguments",
    "Row",
    "Sampling",
    "draw_tokens",
    "filter_logits",
    "likeliest_tokens",
    "load",
    "penalise_repetition",
    "resolve_options",
    "rewrite_prompt",
    "sample_keys",
    "trace_decode",
]

_MODULES = {
    "Arguments": "options",
    "Chat": "chat",
    "FinishReason": "row",
    "LanguageModel": "language_model",
    "Options": "options",
    "Result": "row",
    "Rewrite": "rewrite",
    "RewriteArguments": "options",
    "Row": "row",
    "Sampling": "samplers",
    "draw_tokens": "samplers",
    "filter_logits": "samplers",
    "likeliest_tokens": "samplers",
    "load": "loading",
    "penalise_repetition": "samplers",
    "resolve_options": "options",
    "rewrite_prompt": "rewrite",
    "sample_keys": "samplers",
    "trace_decode": "ahead",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.sample.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.sample' has no attribute {name!r}")
