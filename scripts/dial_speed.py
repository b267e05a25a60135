"""What a training step costs on this device, shape by shape, beside what its products alone would.

    python scripts/dial_speed.py [--seconds S] [--out FILE]

A JSON line a shape and vocabulary of the dial's: tokens a second, and the share of the speed of products that steps
reach. The law of `jslm/dial/rules.py` is fitted to such lines. Use it while the machine does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# (layers, width, vocabulary)
SHAPES = (
    *((2, 64, 512), (3, 96, 1024), (3, 128, 2048), (4, 128, 4096), (4, 160, 2048), (4, 192, 2048), (4, 192, 4096)),
    *((5, 224, 4096), (6, 256, 2048), (6, 256, 8192), (6, 320, 4096), (8, 384, 8192)),
)
TOKENS = 2048


def main() -> int:
    """Times each shape in turn."""
    sys.path.insert(0, str(ROOT))
    from jslm.dial.device import measure
    from jslm.dial.rules import model_of, operations
    from scripts.bench.lanes.jslm_step import StepLane

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each shape (default 3)")
    parser.add_argument("--out", type=Path, help="append the lines to this file as well")
    args = parser.parse_args()
    for layers, width, vocabulary in SHAPES:
        model = model_of(layers, width, vocabulary)
        lane = StepLane(
            {
                "config": {"model": model.model_dump(exclude_unset=True), "optimizer": {"name": "muon"}},
                "batch": TOKENS // model.context_length,
            }
        )
        device = measure()
        tokens, seconds = lane.turn("", args.seconds)
        line = {
            "layers": layers,
            "width": width,
            "context": model.context_length,
            "vocabulary": vocabulary,
            "dtype": device.dtype,
            "tokens_per_s": tokens / seconds,
            "operations_per_token": operations(model),
            "product_flops": device.flops,
            "share": tokens / seconds * operations(model) / device.flops,
        }
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
