"""How much of an ensemble's gain one student keeps: teachers of several seeds, their ensemble, students of both kinds.

python scripts/distill_study.py --source book.txt --out runs/distill_study [--steps 1500] [--students 3000]

Runs that are finished are not run again. Prints the validation loss (nats a token, disjoint windows) of each teacher at
its best checkpoint, of the mean of their probabilities, of a model without teachers that is trained as long as the
student, and of the student; and the share of the ensemble's gain that the student keeps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jslm.config import Config, config_from_dict
from jslm.formats import load_model
from jslm.model import apply_decoder, logits_from_hidden
from jslm.tokens import open_tokens
from jslm.tokens.loader import eval_batches
from jslm.train import train

TEACHERS = 3


def study_config(args: argparse.Namespace, name: str, seed: int, steps: int, **keys: Any) -> Config:
    """One run of the study; all have the same shape and data."""
    values = {
        "run_dir": f"{args.out}/{name}",
        "seed": seed,
        "data": {"source": args.source, "dir": f"{args.out}/data", "cleaners": ["gutenberg", "normalize"]},
        "tokenizer": {"kind": "bpe", "vocab_size": args.vocab_size},
        "model": {
            "n_layers": args.n_layers, "d_model": args.d_model, "n_heads": args.d_model // 32, "activation": "relu2",
            "context_length": args.context_length, "qk_norm": True, "dropout": args.dropout,
        },
        "optimizer": {
            "name": "muon", "learning_rate": 3e-3, "muon_learning_rate": 6e-3, "schedule": "linear",
            "min_learning_rate_ratio": 0.0, "warmup_share": 0.05, "weight_decay": 0.1,
        },
        "train": {
            "steps": steps, "batch_size": 16, "eval_every": steps // 10, "eval_batches": 0, "log_every": 50,
            "eval_batch_size": 64,
            "tensorboard": False, "report": False, **keys,
        },
        "sample": {"prompts": []},
    }  # fmt: skip
    return config_from_dict(values, name)


def best_loss(config: Config) -> float:
    """The best validation loss of a run, trained now if it has not been."""
    train(config)
    info = json.loads(Path(config.run_dir, "run.json").read_text("utf-8"))
    return float(info["result"]["best_val/loss"])


def ensemble_loss(config: Config, runs: list[str]) -> float:
    """The validation loss of the mean of the runs' probabilities, each at its best checkpoint."""
    models = [load_model(run) for run in runs]

    @jax.jit
    def loss(params: list[Any], inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        probs: Any = 0.0
        for one, model in zip(params, models, strict=True):
            hidden = apply_decoder(one, inputs, model.config.model)
            probs = probs + jax.nn.softmax(logits_from_hidden(one, hidden, model.config.model)) / len(models)
        found = jnp.take_along_axis(probs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(targets >= 0, jnp.log(found), 0.0)), jnp.sum(targets >= 0)

    params = [jax.tree.map(jnp.asarray, model.params) for model in models]
    batches = eval_batches(open_tokens(config.data_dir, "val"), config.model.context_length, 16)
    sums = np.array([[float(part) for part in loss(params, batch["inputs"], batch["targets"])] for batch in batches])
    nats, tokens = sums.sum(axis=0)
    return float(nats / tokens)


def main() -> None:
    """Runs what is not there yet, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--out", default="runs/distill_study")
    parser.add_argument("--steps", type=int, default=1500, help="of each teacher")
    parser.add_argument("--student-steps", type=int, default=3000)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.9])
    parser.add_argument("--n-layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--only-teachers", action="store_true")
    args = parser.parse_args()
    teachers = [study_config(args, f"teacher{seed}", seed, args.steps) for seed in range(1, TEACHERS + 1)]
    single = [best_loss(config) for config in teachers]
    together = ensemble_loss(teachers[0], [config.run_dir for config in teachers])
    print("teachers", *(f"{loss:.4f}" for loss in single), f"ensemble {together:.4f}", flush=True)
    if args.only_teachers:
        return
    for weight in args.weights:
        distill = {"teachers": [config.run_dir for config in teachers], "weight": weight, "top_k": args.top_k}
        name = f"student_{weight:g}_{args.top_k}_{args.student_steps}"
        student = best_loss(study_config(args, name, 7, args.student_steps, objective="distill", distill=distill))
        kept = (np.mean(single) - student) / (np.mean(single) - together)
        print(f"{name} {student:.4f}: {kept:.0%} of the ensemble's gain", flush=True)
    alone = best_loss(study_config(args, f"alone_{args.student_steps}", 7, args.student_steps))
    print(f"without teachers, as long: {alone:.4f}")


if __name__ == "__main__":
    main()
