"""llama2.c writing text: its program, built by whoever measures, on the checkpoint that jslm exports for it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from jslm.formats.llama2c.model import write
from jslm.tokenizer import SentencePieceTokenizer
from scripts.bench.lanes.corpus import random_bundle, run_config
from scripts.bench.sizes import SIZES

_RATE = re.compile(r"achieved tok/s: ([0-9.]+)")


class DecodeLane:
    """Random weights, greedy; the speed is what the program says of itself, so that opening the file is not in it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        folder = Path(spec["folder"])
        self.folder = folder / "llama2c"
        self.folder.mkdir(exist_ok=True)
        checkpoint = self.folder / "model.bin"
        tokenizer = _tokenizer(SIZES[spec["size"]].vocab_size)
        write(random_bundle(run_config(spec["size"], folder), tokenizer), checkpoint, "float32")
        steps = str(spec["prompt_tokens"] + spec["new_tokens"])
        # Both spellings of its options have been in use.
        told = ["0.0", steps] if spec["old_options"] else ["-t", "0.0", "-n", steps]
        self.command = [spec["program"], "model.bin", *told]
        self.facts = {"megabytes": round(checkpoint.stat().st_size / 1e6, 2)}
        self._rate()

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """One sequence at a time, whatever `case` says; the unit is a token."""
        rates: list[float] = []
        started = time.perf_counter()
        while not rates or time.perf_counter() - started < seconds:
            rates.append(self._rate())
        return float(len(rates)), sum(1 / rate for rate in rates)

    def _rate(self) -> float:
        done = subprocess.run(self.command, cwd=self.folder, capture_output=True, check=True)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        found = _RATE.search(said)
        if not found:
            raise RuntimeError(f"{self.command[0]} does not say how fast it was: {said[-200:]!r}")
        return float(found[1])


def _tokenizer(size: int) -> SentencePieceTokenizer:
    """One of `size` tokens that its tokenizer.bin holds."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"w{index}" for index in range(size - len(pieces))]
    return SentencePieceTokenizer(pieces, [0.0] * 259 + [-1.0] * (size - 259), end_of_text="<s>")


def open_lane(spec: dict[str, Any]) -> DecodeLane:
    """`spec`: size, folder, program, old_options, prompt_tokens, new_tokens."""
    return DecodeLane(spec)
