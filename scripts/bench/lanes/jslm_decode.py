"""jslm writing text: `LanguageModel.generate_results`, prompts and all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jslm.infer import LanguageModel
from jslm.parallel import start_jax
from jslm.tokenizer import load_tokenizer
from scripts.bench.lanes.corpus import random_bundle, run_config
from scripts.bench.lanes.jax_facts import device_memory, jax_facts


class DecodeLane:
    """Random weights, greedy, every sample of full length."""

    def __init__(self, spec: dict[str, Any]) -> None:
        start_jax()
        folder = Path(spec["folder"])
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        bundle = random_bundle(run_config(spec["size"], folder, model={"dtype": spec["dtype"]}), tokenizer)
        self.model = LanguageModel(bundle.config, bundle.params, tokenizer)
        self.new_tokens = spec["new_tokens"]
        self.prompt = tokenizer.decode(range(2, 1 + spec["prompt_tokens"]))
        self.facts = {
            **jax_facts(),
            "dtype": self.model.dtype.name,
            "prompt_tokens": len(tokenizer.encode(self.prompt)) + 1,
        }
        # From the model that is there to its first text, program and all, by batch size in the order of `cases`.
        self.facts["first_text_seconds"] = {case: self.turn(case, 0.0)[1] for case in spec["cases"]}

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Samples of the batch size that `case` names; the unit is a token."""
        tokens, started = 0, time.perf_counter()
        while tokens == 0 or time.perf_counter() - started < seconds:
            results = self.model.generate_results(
                self.prompt, greedy=True, num_samples=int(case), max_new_tokens=self.new_tokens
            )
            tokens += sum(len(result.tokens) for result in results)
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return tokens, elapsed


def open_lane(spec: dict[str, Any]) -> DecodeLane:
    """`spec`: size, folder, dtype, prompt_tokens, new_tokens, cases (batch sizes)."""
    return DecodeLane(spec)
