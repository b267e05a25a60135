"""transformers' `generate`: greedy, with its dynamic cache, or its static one and a compiled forward pass."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import CompileConfig

from scripts.bench.lanes.torch_model import (
    DEVICE,
    check_compiler,
    device_memory,
    make_model,
    synchronize,
    torch_facts,
)
from scripts.bench.sizes import SIZES


class DecodeLane:
    """Random weights, greedy, every sample of full length."""

    def __init__(self, spec: dict[str, Any]) -> None:
        size = SIZES[spec["size"]]
        dtype = getattr(torch, spec["dtype"])
        self.model: Any = make_model(size).to(dtype).eval()
        self.prompt_tokens, self.new_tokens = spec["prompt_tokens"], spec["new_tokens"]
        self.options: dict[str, Any] = {"disable_compile": True}
        if spec["static"]:
            # Without this switch, transformers compiles for accelerators alone.
            check_compiler()
            compiled = CompileConfig(mode="default", fullgraph=False, dynamic=False)
            compiled._compile_all_devices = True
            self.options = {"cache_implementation": "static", "compile_config": compiled}
        self.facts = {**torch_facts(), "dtype": spec["dtype"], "prompt_tokens": self.prompt_tokens}
        for case in spec["cases"]:
            self.turn(case, 0.0)

    @torch.inference_mode()
    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Samples of the batch size that `case` names; the unit is a token."""
        batch, tokens = int(case), 0
        prompt = torch.arange(2, 2 + self.prompt_tokens, device=DEVICE).expand(batch, -1)
        started = time.perf_counter()
        while tokens == 0 or time.perf_counter() - started < seconds:
            out = self.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
                max_new_tokens=self.new_tokens, min_new_tokens=self.new_tokens, **self.options,
            )  # fmt: skip
            tokens += batch * (out.shape[1] - self.prompt_tokens)
        synchronize()
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return tokens, elapsed


def open_lane(spec: dict[str, Any]) -> DecodeLane:
    """`spec`: size, dtype, static, prompt_tokens, new_tokens, cases (batch sizes)."""
    return DecodeLane(spec)
