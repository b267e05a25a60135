"""What the dial's rules come from: loss against shape, batch, rate, vocabulary, passes. Resumable.

    python scripts/dial_study.py PLAN.json --corpora FOLDER --out FOLDER

`PLAN.json` is a list of runs, `{"corpus": "books", "text": ["gutenberg/*.txt"], "set": {"model.d_model": 192}}` each;
what a run does not say is `BASE`. A line of `results.jsonl` a run: its settings, its loss in bits per byte of held-out
text, tokens, seconds, and seconds of the CPU. A run that stands there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

BASE: dict[str, Any] = {
    "data.cleaners": ["gutenberg", "footnotes", "page_numbers", "unwrap", "emphasis", "normalize"],
    "data.split": "position",
    "data.validation_fraction": 0.05,
    "tokenizer.vocab_size": 2048,
    "model.n_layers": 4,
    "model.d_model": 192,
    "model.n_heads": 6,
    "model.context_length": 192,
    "model.activation": "relu2",
    "model.qk_norm": True,
    "model.dtype": "float32",
    "optimizer.name": "muon",
    "optimizer.learning_rate": 1e-2,
    "optimizer.schedule": "wsd",
    "optimizer.decay_fraction": 0.6,
    "optimizer.min_learning_rate_ratio": 0.0,
    "optimizer.warmup_steps": 20,
    "train.batch_size": 16,
    "train.eval_every": 100000,
    "train.report": False,
    "train.tensorboard": False,
    "sample.prompts": [],
}


def main() -> int:
    """Runs what `PLAN.json` names and is not in the results yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that the plan's paths of texts start from")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.jsonl and of the prepared data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    for run in json.loads(args.plan.read_text("utf-8")):
        if any(line["run"] == run for line in done):
            continue
        found = measure(run, args.corpora, args.out)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": run, **found}) + "\n")
        done.append({"run": run})
        print(json.dumps({"run": run, **found}), flush=True)
    return 0


def measure(run: dict[str, Any], corpora: Path, out: Path) -> dict[str, Any]:
    """One run from text to loss, in a process of its own; prepared data is shared by runs with the same tokenizer."""
    settings = BASE | run.get("set", {})
    kind, size = settings.get("tokenizer.kind", "bpe"), settings["tokenizer.vocab_size"]
    folder = out / "run"
    shutil.rmtree(folder, ignore_errors=True)
    config = out / "config.toml"
    config.write_text("", "utf-8")
    settings |= {
        "data.source": sorted(str(path) for pattern in run["text"] for path in corpora.glob(pattern)),
        "data.dir": str(out / "data" / f"{run['corpus']}-{kind}-{size}"),
        "run_dir": str(folder),
    }
    command = [sys.executable, "-m", "jslm.train", "--config", str(config)]
    command += [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    info = json.loads((folder / "run.json").read_text("utf-8"))
    result = info["result"]
    return {
        "bits_per_byte": result["val/bits_per_byte"],
        "loss": result["val/loss"],
        "best_loss": result["best_val/loss"],
        "tokens": result["tokens_seen"],
        "passes": result["passes"],
        "parameters": info["parameters"],
        "train_bytes": info["data"]["train"]["bytes"],
        "train_tokens": info["data"]["train"]["tokens"],
        "seconds": result["train_seconds"],
        "cpu_seconds": after.children_user + after.children_system - before.children_user - before.children_system,
    }


if __name__ == "__main__":
    sys.exit(main())
