"""What is compiled to write and to score: requests, programs, samplers. `load` opens any model as a `LanguageModel`.

Imports JAX only when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.infer.ahead import trace_decode
    from jslm.infer.chat import Chat
    from jslm.infer.language_model import LanguageModel
    from jslm.infer.loading import load
    from jslm.infer.request import Arguments, Request, RewriteArguments, make_request
    from jslm.infer.rewrite import Rewrite, rewrite_prompt
    from jslm.infer.row import FinishReason, Result, Row
    from jslm.infer.samplers import (
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
    "Request",
    "Result",
    "Rewrite",
    "RewriteArguments",
    "Row",
    "Sampling",
    "draw_tokens",
    "filter_logits",
    "likeliest_tokens",
    "load",
    "make_request",
    "penalise_repetition",
    "rewrite_prompt",
    "sample_keys",
    "trace_decode",
]

_MODULES = {
    "Arguments": "request",
    "Chat": "chat",
    "FinishReason": "row",
    "LanguageModel": "language_model",
    "Request": "request",
    "Result": "row",
    "Rewrite": "rewrite",
    "RewriteArguments": "request",
    "Row": "row",
    "Sampling": "samplers",
    "draw_tokens": "samplers",
    "filter_logits": "samplers",
    "likeliest_tokens": "samplers",
    "load": "loading",
    "make_request": "request",
    "penalise_repetition": "samplers",
    "rewrite_prompt": "rewrite",
    "sample_keys": "samplers",
    "trace_decode": "ahead",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.infer.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.infer' has no attribute {name!r}")
