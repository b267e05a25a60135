"""What the dial's rules come from: loss against shape, batch, rate, vocabulary, passes. Resumable.

    python scripts/dial_study.py PLAN --corpora FOLDER --out FOLDER [--part 0/2]
    python scripts/dial_study.py fit --results FILE

`PLAN` is `sizes` (shapes by the dial's rules, on three corpora, with the operations of two, five and twenty minutes of
two cores), `widths` (learning rates at widths), `contexts` (how far back a model sees) or a file: a JSON list of runs,
`{"corpus": "books", "text": ["gutenberg/*.txt"], "set": {"model.d_model": 192}}` each; what a run does not say is
`BASE`. A line of `results.jsonl` a run: its settings, its loss in bits per byte of held-out text, tokens, seconds, and
seconds of the CPU. A run that stands there already is not made again. Losses do not hang on time, so parts of a plan
may run beside each other, each in a folder of its own. `fit` prints the law (`jslm.dial.rules.Law`) that is nearest to
results, with a floor for each corpus, and how far it is from them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from jslm.config import ModelConfig
from jslm.dial import rules

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


class Corpus(NamedTuple):
    """A text of the study: its paths, bytes to train on, and the vocabulary that the dial takes for as much text."""

    name: str
    text: tuple[str, ...]
    train_bytes: float
    settings: dict[str, Any]


BYTES = {"tokenizer.kind": "byte", "tokenizer.vocab_size": 256, "data.validation_fraction": 0.1}
CORPORA = (
    Corpus("books", ("gutenberg/*.txt",), 7.1e6, {"tokenizer.vocab_size": 4096}),
    Corpus("shakespeare", ("tinyshakespeare/input.txt",), 1.0e6, {"data.validation_fraction": 0.1}),
    Corpus("alice", ("gutenberg/pg11.txt",), 140e3, BYTES),
)
# Operations, and the shapes that they are tried with: about 2, 5 and 20 minutes of two cores.
SIZES = (
    (1e13, ((2, 96), (3, 128), (4, 192))),
    (3e13, ((3, 128), (4, 192), (6, 256))),
    (1.2e14, ((4, 192), (6, 256))),
)
POWER = 0.3
WIDTHS, FACTORS = (64, 128, 256, 384), (0.5, 1.0, 2.0)
CONTEXTS = (64, 128, 256, 512)


def main() -> int:
    """Runs what the plan names and is not in the results yet, or fits the law."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", metavar="PLAN", help="sizes, widths, contexts, a file, or fit")
    parser.add_argument("--results", type=Path, metavar="FILE", help="for fit: lines of results")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="every Nth run of the plan, from the Kth on")
    parser.add_argument("--corpora", type=Path, help="folder that the plan's paths of texts start from")
    parser.add_argument("--out", type=Path, help="folder of results.jsonl and of the prepared data")
    args = parser.parse_args()
    if args.plan == "fit":
        if args.results is None:
            parser.error("fit needs --results FILE, such as docs/dial-sizes.jsonl")
        print(json.dumps(fit(list(map(json.loads, args.results.read_text("utf-8").splitlines())))))
        return 0
    if args.corpora is None or args.out is None:
        parser.error("a plan needs --corpora FOLDER and --out FOLDER")
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    plans: dict[str, Any] = {"sizes": sizes, "widths": widths, "contexts": contexts}
    runs = plans[args.plan]() if args.plan in plans else json.loads(Path(args.plan).read_text("utf-8"))
    first, every = map(int, args.part.split("/"))
    for run in runs[first::every]:
        if any(line["run"] == run for line in done):
            continue
        found = measure(run, args.corpora, args.out)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": run, **found}) + "\n")
        done.append({"run": run})
        print(json.dumps({"run": run, **found}), flush=True)
    return 0


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The law by least squares of bits per byte, the floors of the corpora, and the root mean square of what is left.

    The law's floor is that of the books, as English prose. Both powers are `POWER`: some dozen runs do not tell powers
    of 0.2 to 0.4 apart, and the floors go with them.
    """
    import numpy as np
    from scipy.optimize import least_squares

    corpora = sorted({row["run"]["corpus"] for row in rows})

    def law_of(values: Any) -> tuple[rules.Law, dict[str, float]]:
        shape, text, passes = map(float, np.exp(values[:3]))
        floors = dict(zip(corpora, map(float, values[3:]), strict=True))
        return rules.Law(floors.get("books", 0.0), shape, POWER, text, POWER, passes), floors

    def errors(values: Any) -> list[float]:
        law, floors = law_of(values)
        return [
            rules.predict(
                rules.worth(row["parameters"]),
                row["tokens"] * row["train_bytes"] / row["train_tokens"],
                row["train_bytes"],
                law._replace(floor=floors[row["run"]["corpus"]]),
            )
            - row["bits_per_byte"]
            for row in rows
        ]

    least, most = [-5.0, -5.0, 0.0, *[0.3] * len(corpora)], [15.0, 15.0, 5.0, *[1.6] * len(corpora)]
    start = np.array([2.0, 4.0, 2.0, *[1.0] * len(corpora)])
    found = least_squares(errors, start, bounds=(least, most))
    law, floors = law_of(found.x)
    left = float(np.sqrt(np.mean(np.square(errors(found.x)))))
    return {"law": law._asdict(), "floors": floors, "root_mean_square": left, "runs": len(rows)}


def sizes() -> list[dict[str, Any]]:
    """Shapes against operations and text, all else by the dial's rules, as often as a text may be read."""
    runs = []
    for compute, shapes in SIZES:
        for corpus in CORPORA:
            for layers, width in shapes:
                vocabulary = corpus.settings.get("tokenizer.vocab_size", BASE["tokenizer.vocab_size"])
                model = rules.model_of(layers, width, vocabulary)
                tokens = compute / rules.operations(model)
                passes = tokens * rules.characters_per_token(vocabulary) / corpus.train_bytes
                if passes > rules.MOST_PASSES:
                    continue
                batch = rules.batch_for(compute, model.context_length, 1)
                steps = int(tokens / batch / model.context_length)
                settings = (
                    corpus.settings
                    | shape(model)
                    | {
                        "model.dropout": rules.dropout_for(passes),
                        "train.batch_size": batch,
                        "train.steps": steps,
                        "optimizer.warmup_steps": rules.warmup_for(steps),
                    }
                )
                runs.append({"corpus": corpus.name, "text": list(corpus.text), "set": settings})
    return runs


def widths() -> list[dict[str, Any]]:
    """The dial's rate, half and twice as much, at widths of 64 to 384: half a million tokens of the books."""
    runs = []
    for width in WIDTHS:
        for factor in FACTORS:
            settings = shape(rules.model_of(3, width, BASE["tokenizer.vocab_size"])) | {
                "model.context_length": 128,
                "optimizer.learning_rate": float(f"{factor * rules.rate_for(width):.2g}"),
                "train.batch_size": 8,
                "train.steps": 500,
            }
            runs.append({"corpus": "books", "text": ["gutenberg/*.txt"], "set": settings})
    return runs


def contexts() -> list[dict[str, Any]]:
    """3 x 128 with as many tokens a step, in windows of 64 to 512: 1.4 million tokens of the books."""
    corpus = CORPORA[0]
    settings = corpus.settings | shape(rules.model_of(3, 128, corpus.settings["tokenizer.vocab_size"]))
    return [
        {
            "corpus": corpus.name,
            "text": list(corpus.text),
            "set": settings
            | {"model.context_length": context, "train.batch_size": 1024 // context, "train.steps": 1400},
        }
        for context in CONTEXTS
    ]


def shape(model: ModelConfig) -> dict[str, Any]:
    """The settings of a model as the dial would train it, in the device's own type."""
    return {
        "model.n_layers": model.n_layers,
        "model.d_model": model.d_model,
        "model.n_heads": model.n_heads,
        "model.context_length": model.context_length,
        "model.dtype": "auto",
        "optimizer.learning_rate": float(f"{rules.rate_for(model.d_model):.2g}"),
        **{f"optimizer.{name}": value for name, value in rules.OPTIMIZER.items()},
        "train.eval_batch_size": 64,
    }


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
