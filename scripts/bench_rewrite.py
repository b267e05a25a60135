"""How fast sentences are rewritten, one way and another: python scripts/bench_rewrite.py [--run DIR] [--json].

Without --run, a model of configs/rewriter_char.toml first learns a few generated pairs by heart, which takes a minute
or two: what it writes, and so what prompt lookup saves, is then that of the real task. Each way runs in a process of
its own, whose peak memory is told. Times are those of whole sentences, from text to text, after one round to compile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "generate, greedy": {},
    "rewrite, no lookup": {"lookup": False},
    "rewrite": {},
    "rewrite, greedy alone": {"beams": 1},
    "rewrite, 8 at once": {"batch_size": 8},
    "rewrite, 4 beams": {"beams": 4},
}
MOST_STEPS = 400
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "rewriter_char.toml"


def main() -> int:
    """Prints a Markdown table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", metavar="DIR", help="run folder or model file of a rewriter")
    parser.add_argument("--sentences", metavar="FILE", help="a sentence a line (default: generated ones)")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="generated pairs (default 8)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds; the median counts (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pairs = generated_pairs(args.count)
    sentences = Path(args.sentences).read_text("utf-8").splitlines() if args.sentences else [p for p, _ in pairs]
    if args.way:
        print(json.dumps(measure(args.run, args.way, sentences, args.rounds)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or learned_by_heart(pairs, Path(folder) / "rewriter.safetensors")
        own = [sys.executable, __file__, "--run", run, "--count", str(args.count), "--rounds", str(args.rounds)]
        own += ["--sentences", args.sentences] if args.sentences else []
        figures = [
            json.loads(subprocess.run([*own, "--way", way], check=True, stdout=subprocess.PIPE).stdout) for way in WAYS
        ]
    print(json.dumps({"run": args.run or str(CONFIG.name), "ways": figures}, indent=2) if args.json else table(figures))
    return 0


def generated_pairs(count: int) -> list[tuple[str, str]]:
    """Passive sentences and their active forms, or the other way round."""
    from jslm.corpora.rewrite import generate_pairs

    return [(pair.source, pair.target) for pair in itertools.islice(generate_pairs(seed=0), count)]


def learned_by_heart(pairs: list[tuple[str, str]], path: Path) -> str:
    """Fits a fresh model of the preset to the pairs; writes it as one file."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jslm.config import load_config
    from jslm.formats import portable
    from jslm.infer import rewrite_prompt
    from jslm.model import Params, init_params, loss_sums
    from jslm.runs.bundle import Bundle
    from jslm.tokenizer import CharTokenizer

    tokenizer = CharTokenizer("".join(map(chr, range(32, 127))) + "\n")
    config = load_config(CONFIG, [f"model.vocab_size={tokenizer.vocab_size}"])
    texts = [
        (tokenizer.encode(rewrite_prompt(config.data, prompt)), tokenizer.encode(answer)) for prompt, answer in pairs
    ]
    length = 1 + max(len(prompt) + len(answer) for prompt, answer in texts)
    inputs, targets = np.zeros((len(pairs), length), np.int32), np.full((len(pairs), length), -1, np.int32)
    for row, target, (prompt, answer) in zip(inputs, targets, texts, strict=True):
        row[: len(prompt) + len(answer) + 1] = [tokenizer.eot_id, *prompt, *answer]
        target[len(prompt) : len(prompt) + len(answer) + 1] = [*answer, tokenizer.eot_id]
    batch, counted = (jnp.asarray(inputs), jnp.asarray(targets)), int((targets >= 0).sum())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    @jax.jit
    def learn(params: Params, state: optax.OptState) -> tuple[Params, optax.OptState, jax.Array]:
        loss, gradients = jax.value_and_grad(lambda p: loss_sums(p, *batch, config.model)[0] / counted)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    params = init_params(config.model, jax.random.key(0))
    state = optimizer.init(params)
    steps, loss = 0, jnp.float32(jnp.inf)
    while steps < MOST_STEPS and loss > 0.005:
        params, state, loss = learn(params, state)
        steps += 1
    print(f"learned {len(pairs)} pairs in {steps} steps, loss {float(loss):.3f}", file=sys.stderr)
    portable.write(Bundle(config, jax.tree.map(np.asarray, params), tokenizer), path, "float32")
    return str(path)


def measure(run: str, way: str, sentences: list[str], rounds: int) -> dict[str, Any]:
    """The figures of one way of writing, in this process."""
    from jslm.infer import load, rewrite_prompt

    model = load(run)

    def write(sentences: list[str]) -> list[str]:
        if way != "generate, greedy":
            return [found.output for found in model.rewrite(sentences, **WAYS[way])]
        prompts = [rewrite_prompt(model.config.data, sentence) for sentence in sentences]
        return [model.generate_results(prompt, greedy=True, max_new_tokens=200)[0].text for prompt in prompts]

    at_once = WAYS[way].get("batch_size", 1)
    batches = [sentences[start : start + at_once] for start in range(0, len(sentences), at_once)]
    for batch in batches:
        write(batch)
    seconds, decoding, each = [], [], []
    for _ in range(rounds):
        model.decode_tokens, model.decode_seconds = 0, 0.0
        texts, taken = [], []
        for batch in batches:
            started = time.perf_counter()
            texts += write(batch)
            taken.append(time.perf_counter() - started)
        seconds.append(sum(taken))
        each += [took / len(batch) for took, batch in zip(taken, batches, strict=True)]
        decoding.append(model.decode_tokens / model.decode_seconds)
    median = statistics.median(seconds)
    return {
        "way": way,
        "sentences_per_s": len(sentences) / median,
        "characters_per_s": sum(map(len, texts)) / median,
        "decoded_tokens_per_s": statistics.median(decoding),
        "ms_per_sentence": 1000 * median / len(sentences),
        "ms_median": 1000 * statistics.median(each),
        "ms_worst": 1000 * max(each),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def table(figures: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = list(figures[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + " --- |" * len(names)]
    for row in figures:
        shown = (value if isinstance(value, str) else f"{value:,.1f}" for value in row.values())
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
