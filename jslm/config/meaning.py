"""What a model's weights mean by its config: the same arrays are another model under another of these settings."""

from __future__ import annotations

from typing import Any, NamedTuple

from jslm.config.model_schema import ModelConfig
from jslm.config.schema import Config

# What may differ between a model and what goes on from it, and nothing else: how it is computed, regularised and begun.
FREE_FIELDS = frozenset(
    {
        "dropout",
        "attention_dropout",
        "condition_dropout",
        "init_std",
        "dtype",
        "attention",
        "remat",
        "unroll",
        "context_length",
    }
)
# Which numbers each kind of rotary scaling reads.
_SCALING_FIELDS = {
    "none": (),
    "linear": ("factor",),
    "ntk": ("factor",),
    "yarn": ("factor", "original_context_length", "beta_fast", "beta_slow", "attention_factor"),
    "llama3": ("factor", "original_context_length", "low_freq_factor", "high_freq_factor"),
}


class Difference(NamedTuple):
    """A setting that two models do not share."""

    key: str
    found: Any
    expected: Any


def model_meaning(model: ModelConfig, *, keeps_length: bool = False) -> dict[str, Any]:
    """Full key -> value of all that decides what the weights compute, defaults resolved.

    What another setting leaves without effect is not in it. The context is in it for learned positions, which are an
    array of that length, and with `keeps_length`.
    """
    free = FREE_FIELDS - {"context_length"} if keeps_length or model.position == "learned" else FREE_FIELDS
    values = model.model_dump(exclude=set(free), mode="json")
    values |= {"n_kv_heads": model.kv_heads, "head_dim": model.dim_per_head, "d_ff": model.hidden_dim}
    scaling = values.pop("rope_scaling")
    if model.position == "rope":
        context, factor = model.context_length, model.rope_scaling.factor
        scaling["original_context_length"] = scaling["original_context_length"] or context / factor
        kept = ("kind", *_SCALING_FIELDS[model.rope_scaling.kind])
        values |= {f"rope_scaling.{name}": scaling[name] for name in kept}
    else:
        del values["rope_theta"]
    if model.norm == "rmsnorm":
        del values["norm_bias"]
    return {f"model.{name}": value for name, value in values.items()}


def model_differences(found: ModelConfig, expected: ModelConfig, *, keeps_length: bool = False) -> list[Difference]:
    """The settings by which `found` makes another model of the weights of `expected`.

    A vocabulary size of 0 is not known yet, and agrees with any.
    """
    here, there = (model_meaning(model, keeps_length=keeps_length) for model in (found, expected))
    # Deciding settings first: those that hang on them are in one of the two alone.
    keys = sorted(here.keys() | there.keys(), key=lambda key: (key not in here or key not in there, key))
    if not (found.vocab_size and expected.vocab_size):
        keys.remove("model.vocab_size")
    return [Difference(key, here.get(key), there.get(key)) for key in keys if here.get(key) != there.get(key)]


def start_differences(found: ModelConfig, expected: ModelConfig) -> list[Difference]:
    """`model_differences`, where `found` goes on from `expected`: a model without conditions may be given some."""
    if not expected.conditions:
        found = found.model_copy(update={"conditions": ()})
    return model_differences(found, expected)


def state_difference(found: Config, expected: Config) -> Difference | None:
    """The first setting by which `found` would read a training state of `expected` wrongly."""
    if differences := model_differences(found.model, expected.model, keeps_length=True):
        return differences[0]
    here, there = found.train.lora, expected.train.lora
    names = ("rank", "alpha", "targets") if here.rank and there.rank else ("rank",)
    for name in names:
        if getattr(here, name) != getattr(there, name):
            return Difference(f"train.lora.{name}", getattr(here, name), getattr(there, name))
    before, after = expected.optimizer, found.optimizer
    if before.name == after.name == "muon" and bool(before.muon_beta2) != bool(after.muon_beta2):
        return Difference("optimizer.muon_beta2", after.muon_beta2, before.muon_beta2)
    if bool(found.train.ema_decay) != bool(expected.train.ema_decay):
        return Difference("train.ema_decay", found.train.ema_decay, expected.train.ema_decay)
    return None
