"""The parts that are measured in turns: train, decode, loader, tokenize; and the machine's own peaks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench.process import LaneError, LaneProcess, Spec
from scripts.bench.rounds import Measured, fastest, take_turns
from scripts.bench.settings import Settings
from scripts.bench.sizes import SIZES, Size

DTYPES = ("float32", "bfloat16")
_LARGE = ("39m", "124m")
_PROMPT_TOKENS = 16
_NEW_TOKENS = 128
_FEW_TOKENS = 32
_BATCHES = ("1", "32")


@dataclass(frozen=True)
class Case:
    """One comparison. `flops` and `bytes` are those of a unit, by lane; `rate_unit` is "tokens", "bytes", "starts"."""

    name: str
    lanes: list[Measured]
    rate_unit: str = "tokens"
    about: dict[str, Any] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Peaks:
    """What the machine reached: FLOP/s by type, and memory's bytes/s."""

    flops: dict[str, float]
    bandwidth: float | None
    cases: list[Case]


def measure_peaks(settings: Settings) -> Peaks:
    """Matrix products and memory, by the best of JAX and PyTorch: the yardstick of MFU and bandwidth shares."""
    values: dict[str, Any] = {"matrix": 2048, "megabytes": 256}
    specs = [settings.ours("", "jax_peak", **values)]
    if settings.has_peer:
        specs.append(settings.peer("PyTorch", "torch_peak", **values))
    found = take_turns(specs, [*DTYPES, "memory"], settings.budget(factor=0.2, at_most=3), settings.say)
    best = {case: max((rate for lane in lanes for rate in lane.rates()), default=None) for case, lanes in found.items()}
    units = dict.fromkeys(DTYPES, "FLOPs") | {"memory": "bytes"}
    return Peaks(
        {dtype: peak for dtype in DTYPES if (peak := best[dtype])},
        best["memory"],
        [Case(case, lanes, units[case]) for case, lanes in found.items()],
    )


def measure_train(settings: Settings) -> list[Case]:
    """Optimizer steps a size, loader and metrics included."""
    return [_train(settings, SIZES[name]) for name in settings.sizes]


def _train(settings: Settings, size: Size) -> Case:
    settings.say(f"train {size.name}")
    folder, made = make_corpus(settings, size, tokens=1_000_000)
    batch = size.gpu_batch if made["platform"] != "cpu" else size.batch
    about = {"batch": batch, "context": size.context, "parameters": made["parameters"]}
    values: dict[str, Any] = {"size": size.name, "folder": str(folder), "batch": batch}
    specs = [
        settings.ours(_ours(dtype, made), "jslm_train", dtype=dtype, **values)
        for dtype in sorted(DTYPES, key=lambda dtype: dtype != made["default_dtype"])
    ]
    if settings.has_peer:
        specs += [
            settings.peer(_theirs(dtype, compiled), "torch_train", dtype=dtype, compile=compiled, **values)
            for compiled in (False, True)
            for dtype in DTYPES
        ]
    lanes = take_turns(specs, [""], settings.budget(at_most=3 if size.name in _LARGE else None), settings.say)[""]
    return Case(size.name, lanes, about=about, flops={lane.name: made["flops_per_token_trained"] for lane in lanes})


def measure_decode(settings: Settings) -> list[Case]:
    """Greedy text of full length, prompts included, one sequence at a time and 32 together."""
    return [case for name in settings.sizes for case in _decode(settings, SIZES[name])]


def _decode(settings: Settings, size: Size) -> list[Case]:
    settings.say(f"decode {size.name}")
    folder, made = make_corpus(settings, size, tokens=10_000, gguf=settings.has_peer)
    new_tokens = _FEW_TOKENS if size.name in _LARGE else min(_NEW_TOKENS, size.context - _PROMPT_TOKENS)
    values: dict[str, Any] = {
        "size": size.name, "folder": str(folder), "cases": _BATCHES,
        "prompt_tokens": _PROMPT_TOKENS, "new_tokens": new_tokens,
    }  # fmt: skip
    specs = [settings.ours(_ours(dtype, made), "jslm_decode", dtype=dtype, **values) for dtype in DTYPES]
    if settings.has_peer:
        specs += [
            settings.peer(
                f"llama.cpp {dtype}", "llama_cpp_decode", dtype=dtype, gguf_error=made["gguf_error"], **values
            )
            for dtype in DTYPES
        ]
        specs += [
            settings.peer(
                f"transformers {dtype}, {'static cache, compiled' if static else 'dynamic cache'}",
                "torch_decode",
                dtype=dtype,
                static=static,
                **values,
            )
            for static in (False, True)
            for dtype in DTYPES
        ]
    found = take_turns(
        specs, _BATCHES, settings.budget(factor=0.5, at_most=3 if size.name in _LARGE else None), settings.say
    )
    about = {"prompt_tokens": _PROMPT_TOKENS, "new_tokens": new_tokens, "parameters": made["parameters"]}
    width = {"float32": 4, "bfloat16": 2}
    return [
        Case(
            f"{size.name}, batch {batch}",
            lanes,
            about={**about, "batch": int(batch)},
            flops={lane.name: 2.0 * made["weights"] for lane in lanes},
            # Each step reads every weight once, whatever the batch.
            bytes={
                lane.name: width[lane.facts["dtype"]] * made["weights"] / int(batch)
                for lane in lanes
                if "dtype" in lane.facts
            },
        )
        for batch, lanes in found.items()
    ]


def measure_loader(settings: Settings) -> list[Case]:
    """Batches of the loader alone."""
    cases = []
    for size in (SIZES[name] for name in settings.sizes):
        settings.say(f"loader {size.name}")
        folder, made = make_corpus(settings, size, tokens=4_000_000)
        batch = size.gpu_batch if made["platform"] != "cpu" else size.batch
        values: dict[str, Any] = {"size": size.name, "folder": str(folder), "batch": batch}
        specs = [settings.ours("", "jslm_loader", **values)]
        if settings.has_peer:
            ways: dict[str, int | None] = {"nanoGPT's get_batch": None, "DataLoader": 0, "DataLoader, 2 workers": 2}
            specs += [settings.peer(name, "torch_loader", workers=workers, **values) for name, workers in ways.items()]
        lanes = take_turns(specs, [""], settings.budget(factor=0.2), settings.say)[""]
        cases.append(Case(size.name, lanes, about={"batch": batch, "context": size.context}))
    return cases


def measure_tokenize(settings: Settings) -> list[Case]:
    """Text to ids, beside the libraries' own batch calls (in jslm's interpreter: they are jslm's dependencies)."""
    settings.say("tokenize")
    folder = settings.folder / "tokenize"
    folder.mkdir()
    _prepare(settings, "stories", {"folder": str(folder), "megabytes": 1.0, "vocab_size": 4096})
    values: dict[str, Any] = {"text": str(folder / "text.txt"), "tokenizer": str(folder / "tokenizer.json")}
    cases = []
    for kind, library in (("bpe", "tokenizers"), ("gpt2", "tiktoken")):
        specs = [settings.ours(kind, "text_to_ids", side="jslm", kind=kind, **values)]
        if settings.has_peer:
            specs.append(settings.peer(library, "text_to_ids", python=sys.executable, side="peer", kind=kind, **values))
        found = take_turns(specs, ["documents", "one text"], settings.budget(factor=0.2), settings.say)
        cases += [Case(f"{kind}, {case}", lanes, "bytes") for case, lanes in found.items()]
    return cases


def make_corpus(settings: Settings, size: Size, *, tokens: int, gguf: bool = False) -> tuple[Path, dict[str, Any]]:
    """(folder, what `lanes/corpus.py` says of the files in it)."""
    folder = settings.folder / f"{size.name}-{tokens}"
    folder.mkdir(exist_ok=True)
    return folder, _prepare(
        settings, "corpus", {"size": size.name, "folder": str(folder), "tokens": tokens, "gguf": gguf}
    )


def best_of(case: Case) -> tuple[Measured | None, Measured | None]:
    """(jslm as it comes, or its only lane; the fastest peer); None for what was not measured."""
    ours = [lane for lane in case.lanes if lane.side == "jslm" and lane.turns]
    default = next((lane for lane in ours if "default" in lane.name), ours[0] if ours else None)
    return default, fastest(case.lanes, "peer")


def _prepare(settings: Settings, module: str, values: dict[str, Any]) -> dict[str, Any]:
    spec: Spec = settings.ours("preparation", module, **values)
    try:
        lane = LaneProcess(spec, timeout=300.0)
    except LaneError as error:
        raise RuntimeError(f"preparing the benchmark: {error}") from None
    lane.close()
    return lane.facts


def _ours(dtype: str, made: dict[str, Any]) -> str:
    return dtype + (" (default)" if dtype == made["default_dtype"] else "")


def _theirs(dtype: str, compiled: bool) -> str:
    return f"PyTorch {'autocast ' if dtype == 'bfloat16' else ''}{dtype}, {'compiled' if compiled else 'eager'}"
