"""Rewriting measured on pairs: exact match, edit distance and chrF, by category."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jslm.config import DataConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.evaluate.questions import read_records, text_of
from jslm.installation import install_command
from jslm.prompts.pairs import shown_prompt

if TYPE_CHECKING:
    from jslm.infer import LanguageModel

_SHOWN_MISTAKES = 20
# Room for an output that is longer than its reference; one past that is wrong anyway.
_SLACK_TOKENS = 16
_BATCH = 256


class RewritePair(NamedTuple):
    """A prompt and the one right completion; `fields` is the whole record, for the run's `data.template`."""

    prompt: str
    completion: str
    category: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})


def read_pairs(path: Path) -> list[RewritePair]:
    """A JSONL file of `prompt`, `completion` and, where there is one, `category`.

    Raises JslmError with the line for a bad one, and for a file without any.
    """
    pairs = []
    for where, record in read_records(path, ("prompt", "completion")):
        category = record.get("category") or ""
        if not isinstance(category, str):
            raise JslmError(f"{where}: category = {category!r}; expected text")
        prompt, completion = (text_of(where, record, key) for key in ("prompt", "completion"))
        pairs.append(RewritePair(prompt, completion.strip(), category, record))
    if not pairs:
        raise JslmError(f"{path}: empty; expected lines with 'prompt', 'completion' and 'category'")
    return pairs


def require_sacrebleu() -> None:
    """Raises JslmError where sacrebleu is not installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise JslmError(f"rewriting is measured with sacrebleu; install it: {install_command('eval')}")


def rewrite_quality(model: LanguageModel, pairs: Sequence[RewritePair]) -> dict[str, Any]:
    """Writes each completion greedily, after the prompt as training showed it, and compares; see `compare_rewrites`.

    Raises JslmError for a prompt longer than the model's context, or without a field of the run's `data.template`.
    """
    found = []
    with Bar("rewriting", len(pairs), "pairs") as bar:
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            longest = max(len(model.tokenizer.encode(pair.completion)) for pair in batch)
            room = 2 * longest + _SLACK_TOKENS
            prompts = [_prompt(model.config.data, pair) for pair in batch]
            results = model.generate_results(prompts, greedy=True, max_new_tokens=room)
            found += [result.text.strip() for result in results]
            bar.add(len(batch))
    return compare_rewrites(pairs, found)


def _prompt(data: DataConfig, pair: RewritePair) -> str:
    fields = {**pair.fields, "prompt": pair.prompt}
    fields.pop("completion", None)
    try:
        return shown_prompt(data, fields)
    except KeyError as error:
        raise JslmError(
            f"the run's data.template has {{{error.args[0]}}}, but the pair {pair.prompt!r} has only "
            f"{', '.join(fields)}; add it to each line"
        ) from None


def compare_rewrites(pairs: Sequence[RewritePair], found: Sequence[str]) -> dict[str, Any]:
    """The figures of `found` against the pairs' completions, over all and by category, and the first mistakes.

    `exact_match`: share that is the same text. `edit_distance`: Levenshtein's, in characters, a pair; `error_rate`:
    the distances' sum over the completions' characters. `chrf`: chrF2 of the whole (Popović 2015), 0 to 100, by
    sacrebleu. Raises JslmError where that is not installed.
    """
    require_sacrebleu()
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    distances = [edit_distance(pair.completion, text) for pair, text in zip(pairs, found, strict=True)]

    def figures(chosen: Sequence[int]) -> dict[str, Any]:
        completions = [pairs[index].completion for index in chosen]
        texts = [found[index] for index in chosen]
        total = sum(distances[index] for index in chosen)
        return {
            "items": len(chosen),
            "exact_match": float(np.mean([a == b for a, b in zip(completions, texts, strict=True)])),
            "edit_distance": total / len(chosen),
            "error_rate": total / sum(map(len, completions)),
            "chrf": float(chrf.corpus_score(texts, [completions]).score),
        }

    by_category: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_category[pair.category or "(none)"].append(index)
    record = figures(range(len(pairs))) | {"chrf_signature": str(chrf.get_signature())}
    if len(by_category) > 1:
        record["categories"] = {name: figures(chosen) for name, chosen in sorted(by_category.items())}
    wrong = [index for index in range(len(pairs)) if pairs[index].completion != found[index]]
    record["mistakes"] = [
        {
            "category": pairs[index].category,
            "prompt": pairs[index].prompt,
            "completion": pairs[index].completion,
            "found": found[index],
        }
        for index in wrong[:_SHOWN_MISTAKES]
    ]
    return record


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements of a character that make `b` of `a`."""
    if a == b:
        return 0
    codes = np.array([ord(char) for char in b], np.int64)
    places = np.arange(len(b) + 1)
    row = places
    for index, char in enumerate(a, 1):
        # Without insertions; those then come as a running minimum, since each costs one place.
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(char)))
        row = np.minimum.accumulate(np.concatenate([[index], best]) - places) + places
    return int(row[-1])
