"""A run in plain words: the lines shown at its start and the sentence at the head of its report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from jslm.train.metrics import format_count, format_duration

Info = Mapping[str, Any]


def summary_lines(info: Info) -> list[str]:
    """What a run is about to do, as aligned lines of ASCII; `info` is `run.json`, and absent keys leave lines out.

    Besides the keys of the report it reads `steps`, `tokens_per_step`, `passes` and `expected_seconds`.
    """
    fields = [
        ("devices", info.get("devices")),
        ("mesh", ", ".join(f"{axis} {size}" for axis, size in (info.get("mesh") or {}).items())),
        ("overlap", info.get("overlap")),
        ("compute", info.get("dtype")),
        ("parameters", _parameters(info.get("parameters") or {})),
        ("training", _split(dig(info, "data", "train"))),
        ("validation", _split(dig(info, "data", "val"))),
        ("steps", _steps(info)),
        ("time", _expected(info)),
    ]
    return [f"{name:<12}{text}" for name, text in fields if text]


def verdict(info: Info) -> str:
    """One sentence on what came out of a run, from `run.json`."""
    parameters = dig(info, "parameters", "total")
    seconds, devices = dig(info, "result", "train_seconds"), info.get("devices")
    subject = f"A {format_count(parameters)}-parameter model" if parameters else "The model"
    if seconds is not None or devices:
        subject += ", trained"
        subject += f" for {format_duration(seconds)}" if seconds is not None else ""
        subject += f" on {devices}," if devices else ","
    return f"{subject} {_outcome(info)}"


def dig(info: Info, *keys: str) -> Any:
    """The value under nested keys, or None where any of them is absent."""
    value: Any = info
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def format_bytes(count: float) -> str:
    """A size in decimal units: 812 bytes, 50.1 MB."""
    text = format_count(count)
    units = {"k": "kB", "M": "MB", "B": "GB", "T": "TB"}
    return f"{text[:-1]} {units[text[-1]]}" if text[-1] in units else f"{text} bytes"


def format_moment(moment: object) -> str:
    """A moment as `2026-01-31 12:30 UTC`, from seconds since the epoch or ISO 8601 text; other text stays as it is."""
    try:
        if isinstance(moment, int | float):
            when = datetime.datetime.fromtimestamp(moment, datetime.UTC)
        else:
            when = datetime.datetime.fromisoformat(str(moment))
    except (ValueError, OverflowError, OSError):
        return str(moment)
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when:%Y-%m-%d %H:%M}{zone}"


def _outcome(info: Info) -> str:
    result = info.get("result") or {}
    bits, loss, training = (result.get(key) for key in ("val/bits_per_byte", "val/loss", "train/loss"))
    if (share := result.get("val/accuracy")) is not None:
        return f"prefers the chosen answer to the rejected one in {share:.1%} of held-out pairs."
    if bits is not None:
        said = f"predicts held-out text at {bits:.3g} bits per byte{_against_entropy(bits, info)}."
        return said + _against_counting(bits, info)
    if loss is not None:
        return f"reaches a loss of {loss:.3f} nats per token on held-out text."
    if training is not None:
        return f"reached a training loss of {training:.3f} nats per token; it was not tried on held-out text."
    return "has not measured anything yet."


def _against_entropy(bits: float, info: Info) -> str:
    entropy = info.get("entropy_bits_per_byte")
    if not entropy:
        return ""
    percent = round(100 * (bits / entropy - 1))
    if percent == 0:
        return f", the text's own entropy of {entropy:.3g}"
    return f": {abs(percent)}% {'above' if percent > 0 else 'below'} the text's own entropy of {entropy:.3g}"


def _against_counting(bits: float, info: Info) -> str:
    counting = dig(info, "baseline", "bits_per_byte")
    if not counting:
        return ""
    said = f" A byte 5-gram with Kneser-Ney smoothing, which only counts, makes {counting:.3g} of it"
    return said + (": the model has learned no more than counting would give." if bits >= counting else ".")


def _parameters(parameters: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {format_count(count)}" for name, count in parameters.items() if name != "total")
    total = parameters.get("total")
    if total is None:
        return parts
    return f"{format_count(total)} ({parts})" if parts else format_count(total)


def _split(split: Mapping[str, Any] | None) -> str:
    split = split or {}
    tokens, documents, size = (split.get(key) for key in ("tokens", "documents", "bytes"))
    texts = [
        f"{tokens:,} tokens" if tokens is not None else "",
        f"{documents:,} document{'' if documents == 1 else 's'}" if documents is not None else "",
        format_bytes(size) if size is not None else "",
    ]
    return ", ".join(text for text in texts if text)


def _steps(info: Info) -> str:
    steps, tokens, passes = info.get("steps"), info.get("tokens_per_step"), info.get("passes")
    if steps is None:
        return ""
    text = f"{steps:,}"
    if tokens:
        text += f" of {tokens:,} tokens"
        text += f", {passes:.3g} passes over the text" if passes is not None else ""
    return text + unlearned(info)


def unlearned(info: Info) -> str:
    """What fills batches besides tokens that count, as " (12.3% padding, 4.5% prompts)"; empty where nothing does."""
    shares = {name: info.get(name) or 0.0 for name in ("padding", "prompts")}
    texts = [f"{share:.1%} {name}" for name, share in shares.items() if share >= 0.0005]
    return f" ({', '.join(texts)})" if texts else ""


def _expected(info: Info) -> str:
    seconds = info.get("expected_seconds")
    return "" if seconds is None else f"about {format_duration(seconds)}"
