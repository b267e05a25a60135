"""How step time and memory grow from one chip to a pod: a Markdown table of three shapes on TPU slices.

`python scripts/scale_table.py [--results FILE]` compiles each step with libtpu (extra `plan`, no TPU), a minute each.
FILE keeps what was compiled, one JSON object a line: a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError

GPT2 = {
    "n_layers": 12,
    "d_model": 768,
    "n_heads": 12,
    "context_length": 1024,
    "vocab_size": 50257,
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
# The shapes of Llama 3.2 1B and Llama 2 7B.
LLAMA_1B = {
    "n_layers": 16,
    "d_model": 2048,
    "n_heads": 32,
    "n_kv_heads": 8,
    "d_ff": 8192,
    "context_length": 2048,
    "vocab_size": 128256,
    "remat": "full",
}
LLAMA_7B = {
    "n_layers": 32,
    "d_model": 4096,
    "n_heads": 32,
    "d_ff": 11008,
    "context_length": 4096,
    "vocab_size": 32000,
    "tie_embeddings": False,
    "remat": "full",
}
# (name, model, sequences a step, axis that takes the chips, sequences a chip and micro-batch on v5e, v6e, v5p)
SHAPES: tuple[tuple[str, dict[str, Any], int, str, dict[str, int]], ...] = (
    ("124M", GPT2, 512, "data", {"v5e": 4, "v6e": 8, "v5p": 16}),
    ("1B", LLAMA_1B, 512, "fsdp", {"v5e": 1, "v6e": 4, "v5p": 8}),
    ("7B", LLAMA_7B, 1024, "fsdp", {"v5e": 1, "v6e": 1, "v5p": 2}),
)
SLICES = {
    "v5e": ("1x1", "2x4", "8x8", "16x16"),
    "v6e": ("1x1", "2x4", "8x8", "16x16"),
    "v5p": ("1x1x1", "2x2x2", "4x4x4", "8x8x8"),
}


def main() -> None:
    """Compiles what the results file lacks, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default="scale.jsonl", metavar="FILE", help="results so far (default scale.jsonl)")
    parser.add_argument("--attention", default="auto", help="model.attention of all shapes (default auto)")
    args = parser.parse_args()
    results = Path(args.results)
    import jax

    jax.config.update("jax_platforms", "cpu")
    from jslm.plan import make_plan

    rows = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    rows = [row for row in rows if row.get("attention", "xla") == args.attention]
    done = {(row["shape"], row["plan"]["topology"]) for row in rows}
    for chip, side in sorted(((chip, side) for chip, sides in SLICES.items() for side in sides), key=_told_first):
        for name, model, batch, axis, rows_a_chip in SHAPES:
            topology = f"{chip}:{side}"
            if (name, topology) in done:
                continue
            config = shape_config({**model, "attention": args.attention}, batch, axis, rows_a_chip[chip], topology)
            rows.append(
                {
                    "shape": name,
                    "attention": args.attention,
                    "plan": make_plan(config, topology, decode_batch=0).as_dict(),
                }
            )
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(markdown(rows))


def _told_first(slice_: tuple[str, str]) -> int:
    """Hosts and whole pods before what lies between: a table that was cut short still shows the growth."""
    return (3, 0, 2, 1)[SLICES[slice_[0]].index(slice_[1])]


def shape_config(model: dict[str, Any], batch: int, axis: str, rows: int, topology: str) -> Config:
    """The run of one row of the table: `rows` sequences a chip and micro-batch, fewer where there are not as many."""
    chips = 1
    for side in topology.split(":")[1].split("x"):
        chips *= int(side)
    if batch % chips:
        raise JslmError(f"{topology}: {chips} chips do not divide {batch} sequences")
    return config_from_dict(
        {
            "model": model,
            "mesh": {"data": chips, "fsdp": 1} if axis == "data" else {"data": 1, "fsdp": chips},
            "train": {"steps": 1, "batch_size": batch, "micro_batch": min(batch, rows * chips)},
        },
        "scripts/scale_table.py",
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, by shape, chip and size."""
    lines = [
        "| shape | slice | chips | state a chip | temporaries | fits | step at best | limit | tokens/s | MFU bound |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- | ---: | ---: |",
    ]
    order = {name: index for index, (name, *_) in enumerate(SHAPES)}
    for row in sorted(
        rows, key=lambda row: (order[row["shape"]], row["plan"]["topology"].split(":")[0], row["plan"]["devices"])
    ):
        plan = row["plan"]
        memory = plan["memory"]
        state = memory["parameters"] + memory["optimizer"] + memory["other_state"]
        cells = [row["shape"], plan["topology"], plan["devices"], f"{state / 1e9:.2f} GB"]
        cells += [f"{memory['temporaries'] / 1e9:.1f} GB" if memory["temporaries"] else "?"]
        cells += ["yes" if plan["fits"] else "no"]
        if plan["fits"]:
            roofline = plan["roofline"]
            cells += [f"{roofline['seconds'] * 1e3:,.0f} ms", roofline["limit"]]
            cells += [f"{plan['tokens_per_second'] / 1e3:,.0f} k", f"{plan['mfu']:.0%}"]
        else:
            cells += ["", "", "", ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
