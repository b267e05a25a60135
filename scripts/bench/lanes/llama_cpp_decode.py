"""llama.cpp on the file that jslm exports, through its C interface, so that Python costs it little."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


class DecodeLane:
    """Greedy, every sample of full length; the samples of a batch advance together."""

    def __init__(self, spec: dict[str, Any]) -> None:
        path = Path(spec["folder"], f"{spec['dtype']}.gguf")
        if spec["gguf_error"]:
            raise RuntimeError(f"no GGUF file could be written: {spec['gguf_error']}")
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{path.name}: llama.cpp could not open it")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.prompt_tokens, self.new_tokens = spec["prompt_tokens"], spec["new_tokens"]
        self.contexts = {case: self._context(int(case)) for case in spec["cases"]}
        versions = {
            "python": platform.python_version(),
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        }
        self.facts = {
            "versions": versions,
            "device": f"CPU, {_threads()} threads",
            "dtype": spec["dtype"],
            "prompt_tokens": self.prompt_tokens,
        }
        for case in spec["cases"]:
            self.turn(case, 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Samples of the batch size that `case` names; the unit is a token."""
        tokens, started = 0, time.perf_counter()
        while tokens == 0 or time.perf_counter() - started < seconds:
            self._write(int(case), self.contexts[case])
            tokens += int(case) * self.new_tokens
        return tokens, time.perf_counter() - started

    def _context(self, batch: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = batch
        params.n_ctx = batch * -(-(self.prompt_tokens + self.new_tokens) // 256) * 256
        params.n_batch = params.n_ubatch = max(512, batch * self.prompt_tokens)
        params.n_threads = params.n_threads_batch = _threads()
        # The cache stays float16, llama.cpp's default: its flash attention is four times slower on a float32 one.
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp made no context for {batch} sequences")
        return context

    def _write(self, batch: int, context: Any) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        prompt = np.arange(2, 2 + self.prompt_tokens)
        entries = [(int(token), place, row) for row in range(batch) for place, token in enumerate(prompt)]
        heads = [(row + 1) * self.prompt_tokens - 1 for row in range(batch)]
        for step in range(self.new_tokens):
            tokens = self._decode(context, entries, heads)
            entries = [(token, self.prompt_tokens + step, row) for row, token in enumerate(tokens)]
            heads = list(range(batch))

    def _decode(self, context: Any, entries: list[tuple[int, int, int]], heads: list[int]) -> list[int]:
        """The likeliest token after each of the entries (token, position, row) that `heads` numbers."""
        batch = llama_cpp.llama_batch_init(len(entries), 0, 1)
        try:
            batch.n_tokens = len(entries)
            for index, (token, position, row) in enumerate(entries):
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
                batch.logits[index] = False
            for index in heads:
                batch.logits[index] = True
            if status := llama_cpp.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode returned {status}")
            logits = (llama_cpp.llama_get_logits_ith(context, index) for index in heads)
            return [int(np.argmax(np.ctypeslib.as_array(row, (self.vocab_size,)))) for row in logits]
        finally:
            llama_cpp.llama_batch_free(batch)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def open_lane(spec: dict[str, Any]) -> DecodeLane:
    """`spec`: folder (with the files of `corpus`), gguf_error, dtype, prompt_tokens, new_tokens, cases."""
    return DecodeLane(spec)
