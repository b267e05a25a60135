"""Rewriting measured on sentences that people write: each with all its right answers, some of them to be left alone."""

from __future__ import annotations

import copy
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jslm.config import RewriteConfig
from jslm.console import Bar
from jslm.corpora.rewrite.parsed.to_active import passive_with_agent, to_active
from jslm.corpora.rewrite.parsed.trees import Unsure, read_conllu
from jslm.errors import JslmError
from jslm.evaluate.lints import count_lints, make_checker
from jslm.evaluate.questions import read_records, text_of
from jslm.files import read_utf8
from jslm.infer.faithful import unfaithful
from jslm.infer.rewrite import may_add

if TYPE_CHECKING:
    from jslm.infer import LanguageModel

HEADER = ("register", "sentence", "answers")
# Among the answers: the sentence itself, left alone.
ALONE = "="
_SEPARATOR = " | "
_LENGTHS = ((60, "up to 60 characters"), (120, "61 to 120 characters"), (10**9, "over 120 characters"))
_COVERAGES = tuple(range(10, 101, 10))
_BINS = 5
_SHOWN_MISTAKES = 40
_BATCH = 16
_Z = 1.959964


class Item(NamedTuple):
    """A sentence and every answer that is right; `alone`: the sentence as it is is one of them."""

    register: str
    sentence: str
    answers: tuple[str, ...]
    alone: bool


class Found(NamedTuple):
    """What a model made of an item: its text, how sure it was, whether it changed anything, and what it says else."""

    output: str
    confidence: float
    changed: bool
    difference: str


def read_items(path: Path) -> list[Item]:
    """The sentences of a file, by its ending.

    `.tsv`: columns register, sentence, answers, the answers with ` | ` between, `=` for the sentence itself. `.jsonl`:
    `prompt`, `completion`, and where they are there `answers` (a list, further ones) and `register`. `.conllu`, also
    `.gz`: the passives with an agent, their answers by rule (extra `rewrite`). Raises JslmError with the line for a bad
    one, and for a file without any.
    """
    if path.name.endswith((".conllu", ".conllu.gz")):
        items = _read_treebank(path)
    elif path.suffix == ".jsonl":
        items = _read_jsonl(path)
    else:
        items = _read_tsv(path)
    if not items:
        raise JslmError(f"{path}: no sentence to rewrite; expected columns {', '.join(HEADER)}, JSON Lines or CoNLL-U")
    return items


def _read_tsv(path: Path) -> list[Item]:
    lines = read_utf8(path).splitlines()
    if not lines or tuple(lines[0].split("\t")) != HEADER:
        found = lines[0][:60] if lines else ""
        raise JslmError(f"{path}: line 1: {found!r}; expected the columns {', '.join(HEADER)}, with tabs between")
    items = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(HEADER) or not all(cells):
            raise JslmError(f"{path}: line {number}: {len(cells)} cells; expected {', '.join(HEADER)}, none empty")
        register, sentence, given = cells
        answers = given.split(_SEPARATOR)
        items.append(_item(register, sentence, answers))
    return items


def _item(register: str, sentence: str, answers: Sequence[str]) -> Item:
    alone = ALONE in answers or sentence in answers
    kept = [answer for answer in answers if answer not in (ALONE, sentence)]
    return Item(register, sentence, (*kept, *([sentence] if alone else [])), alone)


def _read_jsonl(path: Path) -> list[Item]:
    items = []
    for where, record in read_records(path, ("prompt", "completion")):
        prompt, completion = (text_of(where, record, key) for key in ("prompt", "completion"))
        further = record.get("answers") or []
        if not isinstance(further, list) or not all(isinstance(answer, str) for answer in further):
            raise JslmError(f"{where}: answers = {further!r}; expected a list of texts")
        register = record.get("register") or record.get("category") or "(none)"
        items.append(_item(str(register), prompt, [completion.strip(), *further]))
    return items


def _read_treebank(path: Path) -> list[Item]:
    items = []
    for tree in read_conllu(path):
        if passive_with_agent(tree) is None:
            continue
        try:
            items.append(_item("treebank", tree.text, [to_active(tree).text]))
        except Unsure:
            continue
    return items


def answer_quality(model: LanguageModel, items: Sequence[Item]) -> dict[str, Any]:
    """The figures of a model on some items; see `compare_answers`. Each is written by `model.rewrite`."""
    # The model's own threshold and check are applied afterwards, so that what they do shows. A search takes its best
    # text that is faithful, which is part of the search; so are parts and a second search where the greedy text is not.
    open_minded = copy.copy(model)
    settings = model.config.rewrite
    searches = settings.agreement.beams > 1
    update = {"faithful": settings.faithful and searches}
    open_minded.config = model.config.model_copy(update={"rewrite": settings.model_copy(update=update)})
    found = []
    with Bar("rewriting", len(items), "sentences") as bar:
        stream = open_minded.rewrite_stream((item.sentence for item in items), batch_size=_BATCH, threshold=0.0)
        for rewrite in stream:
            source = unicodedata.normalize("NFC", rewrite.source)
            difference = unfaithful(source, rewrite.output, may_add=may_add(model)) if rewrite.changed else ""
            found.append(Found(rewrite.output, rewrite.confidence or 0.0, rewrite.changed, difference))
            bar.add(1)
    record = compare_answers(items, found, settings)
    threshold = record["threshold"]
    stand = [
        (item.sentence, one.output)
        for item, one in zip(items, found, strict=True)
        if one.changed and one.confidence >= threshold and not (settings.faithful and one.difference)
    ]
    return {**record, "lints": count_lints(stand, make_checker() if stand else None)} if stand else record


def compare_answers(items: Sequence[Item], found: Sequence[Found], settings: RewriteConfig) -> dict[str, Any]:
    """What a model's rewrites are worth, as shares from 0 to 1 with 95% intervals (Wilson 1927).

    Of the sentences that are to change: `exact` (one of the answers, to the letter), `acceptable` (punctuation and case
    aside), `left_wrongly`. Of those to leave alone: `left_rightly`, also where another answer of theirs was given. Of
    all that changed: `precision` (acceptable), `unfaithful`, and `unfaithful_written` without the check. All of these
    as the model's threshold and check have it. `curve`: precision of what changed where the threshold is so that a
    share of the sentences that are to change is answered; without the threshold, with the check; `answered`: how far
    that goes. `reliability`: how
    often rewrites of some confidence are right.
    """
    threshold = settings.threshold_with(settings.agreement.beams)
    changed = [
        one.changed and one.confidence >= threshold and not (settings.faithful and one.difference) for one in found
    ]
    rows = list(zip(items, found, changed, strict=True))
    answered = [one.changed and not (settings.faithful and one.difference) for one in found]
    right = [is_acceptable(item, one.output) for item, one in zip(items, found, strict=True)]

    def figures(chosen: Sequence[int]) -> dict[str, Any]:
        wanted = [index for index in chosen if not items[index].alone]
        alone = [index for index in chosen if items[index].alone]
        moved = [index for index in chosen if changed[index]]
        shares = {
            "exact": [changed[i] and found[i].output in items[i].answers for i in wanted],
            "acceptable": [changed[i] and right[i] for i in wanted],
            "left_wrongly": [not changed[i] for i in wanted],
            "left_rightly": [not changed[i] or right[i] for i in alone],
            "precision": [right[i] for i in moved],
            "unfaithful": [bool(found[i].difference) and not right[i] for i in moved],
        }
        return {
            "items": len(chosen),
            "to_change": len(wanted),
            "to_leave": len(alone),
            "changed": len(moved),
            **{name: _share(values) for name, values in shares.items()},
        }

    everything = range(len(items))
    record = figures(everything)
    written = [bool(one.difference) and not right[i] for i, one in enumerate(found) if one.changed]
    record["unfaithful_written"] = _share(written)
    record["threshold"] = threshold
    record["curve"] = _curve(items, found, answered, right)
    # Of the sentences that are to change: those beyond have no threshold that answers them.
    record["answered"] = _share([done for item, done in zip(items, answered, strict=True) if not item.alone])
    record["reliability"] = _reliability([(found[i].confidence, right[i]) for i in everything if answered[i]])
    record["registers"] = _grouped(everything, figures, lambda index: items[index].register)
    record["lengths"] = _grouped(everything, figures, lambda index: _length(items[index].sentence))
    judged = zip(rows, right, strict=True)
    wrong = [row for row, good in judged if _is_wrong(row[0], row[2], good)]
    record["mistakes"] = [
        {
            "category": item.register,
            "prompt": item.sentence,
            "completion": item.answers[0],
            "found": one.output if moved else f"(left alone) {one.output if one.changed else ''}".strip(),
        }
        for item, one, moved in wrong[:_SHOWN_MISTAKES]
    ]
    return record


def _is_wrong(item: Item, moved: bool, good: bool) -> bool:
    return not good if moved else not item.alone


def is_acceptable(item: Item, text: str) -> bool:
    """Whether a text is one of an item's answers, punctuation and case aside."""
    return _plain(text) in {_plain(answer) for answer in item.answers}


def _plain(text: str) -> str:
    """Letters and digits alone, in small letters, with one space between words; clitics without their apostrophe."""
    text = unicodedata.normalize("NFC", text).casefold().replace("’", "").replace("'", "")
    return " ".join(re.findall(r"[^\W_]+", text))


def _share(values: Sequence[bool]) -> dict[str, float]:
    """The share of what is true, with its interval; nothing for none of anything."""
    count, total = sum(values), len(values)
    if not total:
        return {}
    low, high = wilson(count, total)
    return {"value": count / total, "low": low, "high": high}


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share: `count` of `total` (Wilson 1927, "Probable inference")."""
    share, square = count / total, _Z * _Z / total
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _curve(
    items: Sequence[Item], found: Sequence[Found], answered: Sequence[bool], right: Sequence[bool]
) -> list[dict[str, Any]]:
    order = sorted((i for i in range(len(items)) if answered[i]), key=lambda i: -found[i].confidence)
    total = sum(not item.alone for item in items)
    points: list[dict[str, Any]] = []
    reached = good = 0
    for place, index in enumerate(order, 1):
        reached += not items[index].alone
        good += right[index]
        while len(points) < len(_COVERAGES) and reached * 100 >= _COVERAGES[len(points)] * total > 0:
            low, high = wilson(good, place)
            points.append(
                {
                    "coverage": _COVERAGES[len(points)] / 100,
                    "precision": good / place,
                    "low": low,
                    "high": high,
                    "threshold": found[index].confidence,
                }
            )
    return points


def _reliability(pairs: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """Equally many rewrites a bin, the least sure first."""
    ordered = sorted(pairs)
    size = max(1, -(-len(ordered) // _BINS))
    bins = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [
        {
            "confidence": sum(sure for sure, _ in part) / len(part),
            "right": sum(good for _, good in part) / len(part),
            "items": len(part),
        }
        for part in bins
    ]


def _grouped(
    everything: Sequence[int], figures: Callable[[Sequence[int]], dict[str, Any]], key: Callable[[int], str]
) -> dict[str, Any]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index in everything:
        groups[key(index)].append(index)
    return {name: figures(chosen) for name, chosen in groups.items()}


def _length(sentence: str) -> str:
    return next(name for most, name in _LENGTHS if len(sentence) <= most)
