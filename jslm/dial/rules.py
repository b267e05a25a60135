"""From a text, a device and minutes to a config: the rules, each with the figure it comes from (docs/dial.md).

The choice is the shape and vocabulary with the least predicted loss. The prediction is a law fitted to runs of
`scripts/dial_study.py`, after Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models"), with repeated
text counted after Muennighoff et al. 2023 ("Scaling Data-Constrained Language Models").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jslm.config import ModelConfig
from jslm.dial.device import Device
from jslm.dial.text import TextFacts


class Law(NamedTuple):
    """Bits per byte = floor + shape * parameters^-shape_power + text * bytes^-text_power, where bytes read again count
    less and less: as if `passes` more readings were the last that taught anything (Muennighoff et al.: 15.4, of texts
    that are far larger, without dropout)."""

    floor: float
    shape: float
    shape_power: float
    text: float
    text_power: float
    passes: float


# By `scripts/dial_study.py fit`, of docs/dial-sizes.jsonl.
LAW = Law(floor=1.2, shape=7.7, shape_power=0.3, text=43.4, text_power=0.3, passes=1.8)
# (layers, width); heads are 32 wide, and 64 from width 512 on.
SHAPES = (
    *((2, 64), (2, 96), (3, 96), (3, 128), (4, 128), (4, 160), (4, 192), (5, 224), (6, 256), (6, 320), (8, 384)),
    *((8, 512), (10, 640), (12, 768)),
)
VOCABULARIES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
# What a parameter of the table of embeddings is worth beside one of a layer: half of it stands for rare tokens.
TABLE_WORTH = 0.5
# The table is to be no larger than the layers, and the model no larger than this many parameters a byte of text: 35
# learn 100 kB by heart in nine readings.
LARGEST_PER_BYTE = 15.0
# Readings after which a text has nothing more to teach, with all the dropout there is; the run ends then.
MOST_PASSES = 80.0
# Operations after which a megabyte has nothing more to teach, nor less text: the best models were those of 3e13, and
# all of 1.2e14 were worse. With the text the best model grows, and what it reads: so with the square of the megabytes.
MOST_OPERATIONS = 4e13
# Share of the device's product speed that a step's products reach.
STEP_SHARE = 0.75
# What is no product (norms, activations, softmax, the optimizer), in operations a token for each layer and unit of
# width: 4 x 128 took 36 us a token where this said 36.
OTHER_WORK = 2e3
# Of all runs; docs/dial.md has what each is worth.
OPTIMIZER = {
    "name": "muon",
    "schedule": "wsd",
    "decay_fraction": 0.6,
    "min_learning_rate_ratio": 0.0,
    "weight_decay": 0.1,
    "beta1": 0.8,
    "beta2": 0.99,
    "muon_momentum": 0.9,
    "muon_beta2": 0.95,
}
# Starting, compiling, validations and the end, in seconds and as a share of the budget.
FIXED_SECONDS, FIXED_SHARE = 14.0, 0.06
# Fewer windows of held-out text tell models apart by chance.
MIN_VALIDATION_WINDOWS = 100
# Of training, at least.
LEAST_SECONDS = 5.0
# Bytes a second and core, cleaned and tokenised (docs/benchmarks.md), of texts over this size.
PREPARED_BYTES, PREPARED_BESIDE = 2.5e6, 10e6


@dataclass(frozen=True)
class Choice:
    """The config's values (nested, as in TOML), a line of reason for each decision, and what is expected."""

    values: dict[str, Any]
    reasons: tuple[tuple[str, str], ...]
    steps: int
    bits_per_byte: float


def training_seconds(facts: TextFacts, device: Device, minutes: float) -> float:
    """What `minutes` leave for steps; may be less than nothing."""
    return 60.0 * minutes * (1 - FIXED_SHARE) - FIXED_SECONDS - preparing_seconds(facts, device)


def choose(facts: TextFacts, device: Device, minutes: float) -> Choice:
    """The config for a text, on a device, in so many minutes. A function of its arguments alone."""
    seconds = max(LEAST_SECONDS, training_seconds(facts, device, minutes))
    held_out = float(str(facts.settings.get("validation_fraction", _held_out(facts.size))))
    train_bytes = facts.size * (1 - held_out)
    best: tuple[float, ModelConfig, float] | None = None
    for vocabulary in _vocabularies(facts, train_bytes):
        for layers, width in SHAPES:
            model = model_of(layers, width, vocabulary, documents=facts.settings.get("packing") == "documents")
            # The smallest of all is there for any text.
            if (layers, width, vocabulary) != (*SHAPES[0], VOCABULARIES[0]) and not _suits(model, train_bytes):
                continue
            rate = token_rate(model, device)
            seen = min(rate * seconds, most_tokens(model, facts, train_bytes)) * _token_bytes(vocabulary, facts)
            loss = predict(worth(parameters_of(model)), seen, train_bytes)
            if best is None or loss < best[0]:
                best = loss, model, rate
    assert best is not None
    loss, model, rate = best
    return _settings(facts, device, minutes, seconds, held_out, model, rate, loss)


def parameters_of(model: ModelConfig) -> dict[str, int]:
    """As `jslm.model.count_parameters`, for the shapes of the dial alone: nothing is traced, which takes a while."""
    width, head = model.d_model, model.dim_per_head
    layer = 4 * width * model.n_heads * head + 2 * width * model.hidden_dim + 2 * width + 2 * head
    table, layers = model.vocab_size * width, model.n_layers * layer
    return {"token_embedding": table, "layers": layers, "final_norm": width, "total": table + layers + width}


def operations(model: ModelConfig) -> float:
    """As `jslm.model.flops_per_token`, for the shapes of the dial alone."""
    counts = parameters_of(model)
    attention = 6 * model.n_layers * model.n_heads * model.dim_per_head * model.context_length
    return 6.0 * (counts["layers"] + counts["token_embedding"]) + attention


def token_rate(model: ModelConfig, device: Device) -> float:
    """Tokens a second in training."""
    return STEP_SHARE * device.flops / (operations(model) + OTHER_WORK * model.n_layers * model.d_model)


def most_tokens(model: ModelConfig, facts: TextFacts, train_bytes: float) -> float:
    """Tokens after which a text of so many bytes has nothing more to teach this model."""
    operations_of_text = MOST_OPERATIONS * max(1.0, train_bytes / 1e6) ** 2
    passes = MOST_PASSES * train_bytes / _token_bytes(model.vocab_size, facts)
    return min(operations_of_text / operations(model), passes)


def worth(counts: Mapping[str, int]) -> float:
    """Parameters by part (see `count_parameters`) as so many of a layer."""
    table = counts.get("token_embedding", 0)
    return counts["total"] - (1 - TABLE_WORTH) * table


def _suits(model: ModelConfig, train_bytes: float) -> bool:
    counts = parameters_of(model)
    return counts["token_embedding"] <= counts["layers"] and counts["total"] <= LARGEST_PER_BYTE * train_bytes


def predict(parameters: float, seen: float, train_bytes: float, law: Law = LAW) -> float:
    """Bits per byte of held-out text, after `seen` bytes of a text of `train_bytes`, with parameters worth as many."""
    again = max(0.0, seen / train_bytes - 1)
    effective = min(seen, train_bytes) + train_bytes * law.passes * (1 - math.exp(-again / law.passes))
    return law.floor + law.shape * parameters**-law.shape_power + law.text * effective**-law.text_power


def _settings(
    facts: TextFacts,
    device: Device,
    minutes: float,
    seconds: float,
    held_out: float,
    model: ModelConfig,
    rate: float,
    loss: float,
) -> Choice:
    train_bytes = facts.size * (1 - held_out)
    most = most_tokens(model, facts, train_bytes)
    is_short = rate * seconds > most
    tokens = min(rate * seconds, most)
    batch = batch_for(tokens * operations(model), model.context_length, device.count)
    steps = max(20, int(tokens / (batch * model.context_length)))
    passes = tokens * _token_bytes(model.vocab_size, facts) / train_bytes
    dropout = dropout_for(passes)
    learning_rate = float(f"{rate_for(model.d_model):.2g}")
    validation = max(1, round(0.01 * steps * batch / 64))
    is_whole = bool(facts.settings.get("messages") or facts.settings.get("prompt_end"))
    by_document = facts.documents >= 40 or is_whole
    data = {
        **facts.settings,
        "split": "document" if by_document else "position",
        "validation_fraction": held_out,
    }
    if by_document and "packing" not in data and facts.size / facts.documents < 8 * model.context_length:
        data["packing"] = "documents"
    values: dict[str, Any] = {
        "data": data,
        "tokenizer": {"kind": "byte"} if model.vocab_size <= 256 else _bpe(model.vocab_size, facts),
        "model": {
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "n_heads": model.n_heads,
            "context_length": model.context_length,
            "activation": "relu2",
            "qk_norm": True,
            "dropout": dropout,
        },
        "optimizer": {
            **OPTIMIZER,
            "learning_rate": learning_rate,
            "warmup_steps": warmup_for(steps),
        },
        "sample": {"max_new_tokens": min(200, model.context_length - 16)},
        "train": {
            "minutes": minutes,
            **({"steps": steps} if is_short else {}),
            "batch_size": batch,
            "eval_every": max(10, steps // 8),
            "eval_batches": validation,
            "eval_batch_size": 64,
            "log_every": max(1, min(50, steps // 100)),
        },
    }
    parameters = parameters_of(model)["total"]
    where = "whole documents" if by_document else "the end of the text"
    reasons = (
        ("held out", f"{held_out:.1%}, {where}: {_worth_of(held_out * facts.size, model, facts)}"),
        ("tokenizer", _said_tokenizer(model.vocab_size)),
        (
            "model",
            f"{model.n_layers} layers of width {model.d_model}, context {model.context_length}: "
            f"{parameters / 1e6:.2g}M parameters, what {device.name} can teach most in the time",
        ),
        ("batch", f"{batch} sequences; Muon at {learning_rate:g}, which falls to 0 in the last 60%"),
        (
            "passes",
            f"about {passes:.2g} over the text"
            + (f", with dropout {dropout:g} against learning it by heart" if dropout else ", so no dropout")
            + (f"; more would make it no better, so it ends after about {_minutes(tokens / rate)}" if is_short else ""),
        ),
        ("expected", f"about {loss:.2f} bits per byte of English, about {steps:,} steps"),
    )
    return Choice(values, reasons, steps, loss)


def _worth_of(held_out: float, model: ModelConfig, facts: TextFacts) -> str:
    windows = held_out / _token_bytes(model.vocab_size, facts) / model.context_length
    return "enough to tell models apart" if windows >= MIN_VALIDATION_WINDOWS else "little, as the text is"


def preparing_seconds(facts: TextFacts, device: Device) -> float:
    """Cleaning and tokenising; that of small texts is among `FIXED_SECONDS`."""
    return max(0.0, facts.size - PREPARED_BESIDE) / (PREPARED_BYTES * device.cores)


def _minutes(seconds: float) -> str:
    """A run whose steps take so many seconds, as people say it."""
    minutes = (seconds + FIXED_SECONDS) / 60 / (1 - FIXED_SHARE)
    return f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"


def model_of(layers: int, width: int, vocabulary: int, *, documents: bool = False) -> ModelConfig:
    """The model of a shape, with the heads and the context that the dial gives it; `documents`: packed whole."""
    head = 64 if width >= 512 else 32
    context = 128 if width < 160 else 192 if width < 256 else 256 if width < 512 else 512
    if documents:
        context = max(context, 192)
    return ModelConfig(
        n_layers=layers,
        d_model=width,
        n_heads=width // head,
        context_length=context,
        vocab_size=vocabulary,
        activation="relu2",
        qk_norm=True,
    )


def _vocabularies(facts: TextFacts, train_bytes: float) -> list[int]:
    """Those that the text can fill: an entry should stand in it a hundred times or so."""
    most = max(256.0, train_bytes / 400)
    return [size for size in VOCABULARIES if size <= most]


def characters_per_token(vocabulary: int) -> float:
    """As measured on books; a vocabulary of 256 is that of bytes, and its tokens are one each."""
    return 1.0 if vocabulary <= 256 else 0.36 * math.log2(vocabulary) - 1.08


def _token_bytes(vocabulary: int, facts: TextFacts) -> float:
    return characters_per_token(vocabulary) * (1.0 if vocabulary <= 256 else facts.bytes_per_character)


def _held_out(size: float) -> float:
    """The share that is held out: a tenth of little text, two megabytes of much."""
    return round(0.1 if size < 2e6 else 0.05 if size < 40e6 else 2e6 / size, 4)


def batch_for(compute: float, context: int, devices: int) -> int:
    """Sequences a step, for so many operations in all: tokens grow with their fourth root."""
    tokens = 768 * (compute / 4e12) ** 0.25
    rows = max(4, round(tokens / context / 4) * 4)
    return -(-rows // devices) * devices


def rate_for(width: int) -> float:
    """Muon's learning rate."""
    return 1e-2 * math.sqrt(128 / width)


def warmup_for(steps: int) -> int:
    """Steps of warm-up in a run of so many."""
    return min(100, max(5, steps // 40))


def dropout_for(passes: float) -> float:
    """The share of activations that is dropped, for so many readings of the text."""
    return 0.0 if passes < 5 else 0.1 if passes < 15 else 0.2 if passes < 60 else 0.3


def _bpe(vocabulary: int, facts: TextFacts) -> dict[str, Any]:
    settings: dict[str, Any] = {"kind": "bpe", "vocab_size": vocabulary}
    if facts.size > 100e6:
        settings["train_megabytes"] = 50.0
    return settings


def _said_tokenizer(vocabulary: int) -> str:
    if vocabulary <= 256:
        return "bytes: there is too little text for words"
    return f"byte-level BPE of {vocabulary:,}, trained on the text"
