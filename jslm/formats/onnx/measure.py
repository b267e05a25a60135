"""The loss of a graph on text that was held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jslm.formats.held import HeldText
from jslm.formats.onnx.runtime import OnnxDecoder


def graph_loss(graph: Path, held: HeldText) -> float:
    """Nats a token by the `.onnx` file in onnxruntime, a row at a time."""
    decoder = OnnxDecoder(graph)
    total = 0.0
    for row in held.rows:
        logits = decoder.logits(row[None, :-1])[0].astype(np.float64)
        highest = logits.max(axis=-1)
        log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
        total += float(np.sum(log_sums - logits[np.arange(len(logits)), row[1:]]))
    return total / held.tokens
