"""Which changes of a recipe learn faster in the same time: python scripts/ablate.py --config FILE [--seconds 120].

Changes one thing of the config at a time. Each variant is timed for some steps, then trained for as many as fit into
--seconds, once a seed, with seeds outermost, so that a machine that slows down slows all alike. Every run is a line of
--out; a second call goes on where the first stopped. Prints a Markdown table: mean and range over the seeds of the loss
over the whole validation split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MUON = ["optimizer.name=muon", "optimizer.learning_rate=5e-3"]
WSD = ["optimizer.schedule=wsd", "optimizer.decay_fraction=0.6", "optimizer.min_learning_rate_ratio=0"]
RELU2 = ["model.activation=relu2", "model.d_ff=1056"]
# Overrides of the config, which is the benchmark's `small` shape (d_model 256, d_ff 704): `relu2` then has as many
# weights as the gated activation that it replaces. Muon has a learning rate of its own.
VARIANTS: dict[str, list[str]] = {
    "base": [],
    "learning rate 4e-3": ["optimizer.learning_rate=4e-3"],
    "learning rate 1e-3": ["optimizer.learning_rate=1e-3"],
    "muon": MUON,
    "qk-norm": ["model.qk_norm=true"],
    "relu2": RELU2,
    "wsd": WSD,
    "soft-cap": ["model.logit_softcap=30"],
    "untied": ["model.tie_embeddings=false"],
    "muon, wsd": [*MUON, *WSD],
    "fast": [*WSD, *RELU2, "model.tie_embeddings=false"],
    "fast, muon": [*MUON, *WSD, *RELU2, "model.tie_embeddings=false"],
}
TIMED_STEPS = 36


def main() -> int:
    """Runs what has not been run yet, prints the table, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="what is changed; its data are prepared already"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="training time of a run (default 120)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant (default 3)")
    parser.add_argument("--variants", metavar="A;B", help=f"some of: {'; '.join(VARIANTS)}")
    parser.add_argument("--out", default="ablation.jsonl", metavar="FILE", help="a line a run (default ablation.jsonl)")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="for all runs")
    args = parser.parse_intermixed_args()
    chosen = [name.strip() for name in args.variants.split(";")] if args.variants else list(VARIANTS)
    if unknown := [name for name in chosen if name not in VARIANTS]:
        parser.error(f"--variants: no {unknown[0]!r}; expected some of: {'; '.join(VARIANTS)}")
    out = Path(args.out)
    done = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    asked = {"config": args.config, "seconds_asked": args.seconds, "overrides": args.overrides}
    if any(run[key] != asked[key] for run in done for key in asked):
        parser.error(f"--out {out}: runs of another --config, --seconds or overrides; choose another file")
    for seed in range(0 if args.table else args.seeds):
        for name in chosen:
            if any((run["variant"], run["seed"]) == (name, seed) for run in done):
                continue
            timed = [run["step_s"] for run in done if run["variant"] == name]
            overrides = [*args.overrides, *VARIANTS[name], f"seed={seed}"]
            step_s = timed[0] if timed else train(args.config, overrides, TIMED_STEPS)["step_s"]
            run = train(args.config, overrides, max(1, round(args.seconds / step_s)))
            done.append({"variant": name, "seed": seed, **run, "step_s": step_s, **asked})
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(json.dumps(done[-1]), file=sys.stderr, flush=True)
    print(table(done))
    return 0


def train(config: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """The figures of one run of that many steps, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        fixed = [f"run_dir={run}", f"train.steps={steps}", "train.eval_every=0", "train.report=false", "sample.every=0"]
        command = [
            sys.executable,
            "-m",
            "jslm.train",
            "--config",
            config,
            *overrides,
            *fixed,
            "train.tensorboard=false",
        ]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"ablate: {' '.join(command)} failed")
        result = json.loads((run / "run.json").read_text("utf-8"))["result"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    # The first line has the time of compiling in it.
    rates = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line][1:]
    tokens = result["tokens_seen"] / result["step"]
    return {
        "loss": result["val/loss"],
        "steps": steps,
        "step_s": tokens / statistics.median(rates),
        "seconds": result["train_seconds"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown, best first."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        losses.setdefault(run["variant"], []).append(run["loss"])
    base = statistics.mean(losses["base"]) if "base" in losses else None
    lines = ["| variant | steps | ms/step | loss | range | to base |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, found in sorted(losses.items(), key=lambda item: statistics.mean(item[1])):
        first = next(run for run in runs if run["variant"] == name)
        mean, beside = statistics.mean(found), "" if base is None else f"{statistics.mean(found) - base:+.3f}"
        lines.append(
            f"| {name} | {first['steps']:,} | {first['step_s'] * 1e3:.0f} | {mean:.3f} | "
            f"{min(found):.3f} to {max(found):.3f} ({len(found)}) | {beside} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
