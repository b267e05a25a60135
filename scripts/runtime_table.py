"""The table of docs/formats.md: each shape of model in each program, measured here.

    python scripts/runtime_table.py                            # prints it, with the programs that are installed
    python scripts/runtime_table.py --write docs/formats.md    # puts it between the marks there

A cell is "exact", the largest difference of a logit from jslm's own in float32 (rounded up to a digit), or what the
format lacks, in the words of the export's error. A further program is a further `Column` of runtime_columns.py. Run it
in the environment of `make test-peers`; tests/peer/test_runtime_table.py measures again and compares.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import config_from_dict
from jslm.errors import JslmError
from jslm.formats.formats import known_formats
from jslm.runs.bundle import Bundle

# Found from any folder.
sys.path[0] = str(Path(__file__).resolve().parents[1]) if __name__ == "__main__" else sys.path[0]

from scripts.runtime_columns import COLUMNS, CONTEXT, Column  # noqa: E402

START, END = "<!-- Made by scripts/runtime_table.py; edit that, not this. -->", "<!-- End of the table. -->"
BIASES: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "n_kv_heads": 4}
LLAMA3: dict[str, Any] = {"kind": "llama3", "factor": 8.0, "original_context_length": 16}
YARN: dict[str, Any] = {"kind": "yarn", "factor": 4.0}
STYLE = {"name": "style", "labels": ["formal", "casual"]}
SHAPES: dict[str, dict[str, Any]] = {
    "RMSNorm, RoPE, SwiGLU, tied": {"n_kv_heads": 4},
    "the same, untied": {"n_kv_heads": 4, "tie_embeddings": False},
    "grouped queries (GQA)": {},
    "one key-value head (MQA)": {"n_kv_heads": 1},
    "heads wider than d_model / n_heads": {"head_dim": 32},
    "all biases": BIASES,
    "biases on q, k, v (Qwen2)": {"qkv_bias": True},
    "QK-norm (Qwen3)": {"qk_norm": True},
    "GEGLU": {"activation": "geglu"},
    "ReLU² without a gate (Arcee)": {"activation": "relu2"},
    "the same, untied, all biases": {"activation": "relu2", "tie_embeddings": False, **BIASES},
    "ReLU² with QK-norm": {"activation": "relu2", "qk_norm": True},
    "GELU without a gate, RMSNorm, RoPE": {"activation": "gelu"},
    "LayerNorm, learned positions, GELU (GPT-2)": {**GPT2, **BIASES, "activation": "gelu"},
    "the same, exact GELU": {**GPT2, **BIASES, "activation": "gelu_exact"},
    "the same, ReLU²": {**GPT2, **BIASES, "activation": "relu2"},
    "LayerNorm with RoPE": {"norm": "layernorm"},
    "no positions": {"position": "none"},
    "RoPE scaled: linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "RoPE scaled: NTK": {"rope_scaling": {"kind": "ntk", "factor": 4.0}},
    "RoPE scaled: YaRN": {"rope_scaling": YARN},
    "RoPE scaled: YaRN, other betas": {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}},
    "RoPE scaled: Llama 3": {"rope_scaling": LLAMA3},
    "RoPE scaled: Llama 3, with QK-norm": {"rope_scaling": LLAMA3, "qk_norm": True},
    "softcap on logits": {"logit_softcap": 30.0},
    "conditions": {"conditions": [STYLE]},
}


TARGETS = {"gguf": "model.gguf", "llama2c": "model.bin", "safetensors": "model.safetensors"}


def available() -> list[Column]:
    """The columns whose format this jslm writes and whose program is installed."""
    known = known_formats()
    return [column for column in COLUMNS if column.format in known and column.is_here]


def make_bundle(options: dict[str, Any]) -> Bundle:
    """A model of two layers with weights of a trained one's size, and a tokenizer that every format holds."""
    import jax

    from jslm.model import param_shapes
    from jslm.tokenizer import SentencePieceTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz .,"
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokenizer = SentencePieceTokenizer(pieces, [0.0] * 259 + [-1.0] * len(letters), end_of_text="<s>")
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "context_length": CONTEXT}
    values = {"model": {**shape, "dtype": "float32", "vocab_size": tokenizer.vocab_size, **options}}
    if options.get("conditions"):
        values["data"] = {"packing": "documents"}
    config = config_from_dict(values, "a shape of the table")
    noise = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        name, array = jax.tree_util.keystr(path), noise.standard_normal(leaf.shape, np.float32)
        if "scale" in name:
            return 1 + 0.1 * array
        if "tokens" in name:
            array[tokenizer.vocab_size :] = 0
        return array * (0.1 if "bias" in name else leaf.shape[-2] ** -0.5 if "kernel" in name else 0.3)

    params = jax.tree_util.tree_map_with_path(fill, param_shapes(config.model))
    return Bundle(config, params, tokenizer)


def measure(options: dict[str, Any], columns: Sequence[Column], *, measures: bool = True) -> dict[str, str | float]:
    """Title of a column -> largest difference of a logit, or why there is none; without `measures` the latter alone."""
    from jslm.infer import LanguageModel

    bundle = make_bundle(options)
    ids = [1, *np.random.default_rng(1).integers(3, bundle.tokenizer.vocab_size, CONTEXT - 1).tolist()]
    wanted = np.zeros((1, bundle.tokenizer.vocab_size))
    if measures:
        wanted = np.asarray(LanguageModel(bundle.config, bundle.params, bundle.tokenizer).logits(ids)[0])
        wanted = wanted[:, : bundle.tokenizer.vocab_size]
    found: dict[str, str | float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for column in columns:
            made = bundle
            if column.is_plain:
                made = replace(bundle, tokenizer=_plain_tokenizer(bundle.tokenizer.vocab_size))
            path = Path(folder, f"{column.format}-{made.tokenizer.kind}", TARGETS.get(column.format, "model"))
            chosen = known_formats()[column.format]
            assert chosen.write is not None
            try:
                if not path.exists():
                    chosen.write(made, path, "float32")
            except JslmError as error:
                # Once a format is enough.
                said = any(one.format == column.format and one.title in found for one in columns)
                found[column.title] = "-" if said else _lacks(str(error))
                continue
            if reason := column.cannot(bundle.config.model):
                found[column.title] = f"({reason})"
                continue
            logits = column.logits(path, ids)[:, : wanted.shape[1]]
            found[column.title] = float(np.abs(logits - wanted[: len(logits)]).max())
    return found


def _plain_tokenizer(size: int) -> Any:
    from jslm.tokenizer import CharTokenizer

    rest = size - CharTokenizer("a").vocab_size
    return CharTokenizer("".join(map(chr, range(0x4E00, 0x4E00 + rest))) + "a")


def _lacks(message: str) -> str:
    """What of an error is the options."""
    options = message.partition(" cannot express ")[2].partition("; the nearest")[0] or message
    return "refused: " + options.replace("model.", "")


def shown(value: str | float) -> str:
    """A cell: a difference rounded up to one digit."""
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if value == 0:
        return "exact"
    exponent = math.floor(math.log10(value))
    digit = math.ceil(round(value / 10**exponent, 6))
    return f"{digit}e{exponent}" if digit < 10 else f"1e{exponent + 1}"


def table(columns: Sequence[Column]) -> Iterator[str]:
    """The lines of the table, one shape after another as each is measured."""
    yield f"| shape | {' | '.join(column.title for column in columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for name, options in SHAPES.items():
        found = measure(options, columns)
        yield f"| {name} | {' | '.join(shown(found[column.title]) for column in columns)} |"


def main(argv: list[str] | None = None) -> int:
    """Prints the table, or puts it into a file between the marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the two marks")
    args = parser.parse_args(argv)
    columns = available()
    lines = []
    for line in table(columns):
        print(line, flush=True)
        lines.append(line)
    if args.write:
        text = args.write.read_text("utf-8")
        before, _, rest = text.partition(START)
        _, found, after = rest.partition(END)
        if not found:
            print(f"{args.write}: has no place for the table: the lines {START} and {END}", file=sys.stderr)
            return 2
        args.write.write_text(f"{before}{START}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
