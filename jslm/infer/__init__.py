"""What is compiled to write and to score: requests, programs, samplers. `load` opens any model as a `LanguageModel`.

Imports JAX only when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.infer.ahead import trace_decode
    from jslm.infer.chat import Chat
    from jslm.infer.judgement import Rewrite
    from jslm.infer.language_model import LanguageModel
    from jslm.infer.loading import load
    from jslm.infer.request import Arguments, Request, RewriteArguments, make_request
    from jslm.infer.row import FinishReason, Result, Row
    from jslm.infer.samplers import (
        Sampling,
        draw_tokens,
        filter_logits,
        likeliest_tokens,
        penalise_repetition,
        sample_keys,
    )
    from jslm.infer.sentences import rewrite_prompt

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
    "Arguments": "jslm.infer.request",
    "Chat": "jslm.infer.chat",
    "FinishReason": "jslm.infer.row",
    "LanguageModel": "jslm.infer.language_model",
    "Request": "jslm.infer.request",
    "Result": "jslm.infer.row",
    "Rewrite": "jslm.infer.judgement",
    "RewriteArguments": "jslm.infer.request",
    "Row": "jslm.infer.row",
    "Sampling": "jslm.infer.samplers",
    "draw_tokens": "jslm.infer.samplers",
    "filter_logits": "jslm.infer.samplers",
    "likeliest_tokens": "jslm.infer.samplers",
    "load": "jslm.infer.loading",
    "make_request": "jslm.infer.request",
    "penalise_repetition": "jslm.infer.samplers",
    "rewrite_prompt": "jslm.infer.sentences",
    "sample_keys": "jslm.infer.samplers",
    "trace_decode": "jslm.infer.ahead",
}
__getattr__ = lazy_names(__name__, _MODULES)
