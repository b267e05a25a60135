"""An exported model writing text in onnxruntime, prompt and all: as jslm opens it, or in the graph of the file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from jslm.formats.onnx import OnnxDecoder, open_decoder
from jslm.formats.onnx.model import write
from jslm.tokenizer import load_tokenizer
from scripts.bench.lanes.corpus import random_bundle, run_config


class DecodeLane:
    """Random weights, greedy, every sample of full length."""

    def __init__(self, spec: dict[str, Any]) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        folder, kind, opset = Path(spec["folder"]), spec["kind"], spec["opset"]
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        exported = folder / f"{kind}-{opset}"
        # Lanes start one after the other, and may have the same files.
        if not exported.exists():
            write(random_bundle(run_config(spec["size"], folder), tokenizer), exported, kind, opset=opset)
        opened = open_decoder if spec["own"] else OnnxDecoder
        self.decoder: Any = opened(exported, kind=kind, threads=spec["threads"])
        self.prompt = np.arange(2, 2 + spec["prompt_tokens"])
        self.new_tokens = spec["new_tokens"]
        self.facts = {"megabytes": round(self.decoder.path.stat().st_size / 1e6, 2)}
        for case in spec["cases"]:
            self.turn(case, 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Samples of the batch size that `case` names; the unit is a token."""
        batch, tokens, started = int(case), 0, time.perf_counter()
        while tokens == 0 or time.perf_counter() - started < seconds:
            self._write(batch)
            tokens += batch * self.new_tokens
        return tokens, time.perf_counter() - started

    def _write(self, batch: int) -> None:
        lengths = np.full(batch, len(self.prompt))
        cache, logits = self.decoder.prefill(np.tile(self.prompt, (batch, 1)), lengths)
        for step in range(1, self.new_tokens):
            cache, logits = self.decoder.step(logits.argmax(axis=-1), cache, lengths + step - 1)


def open_lane(spec: dict[str, Any]) -> DecodeLane:
    """`spec`: size, folder, kind, opset, threads, prompt_tokens, new_tokens, cases (batch sizes), own (jslm's)."""
    return DecodeLane(spec)
