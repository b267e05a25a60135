"""The records of some models as Markdown, side by side, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jslm.evaluate.baseline import NAME, said_limits
from jslm.evaluate.chart import Panel, bars
from jslm.evaluate.curves import curves
from jslm.files import write_text
from jslm.runs.folder import finite

REPORT, FIGURES, CHART, CURVES = "evaluation.md", "evaluation.json", "comparison.svg", "rewriting.svg"
Record = Mapping[str, Any]
_LOSS, _SUITE = "Loss on ", "Suite: "


class Metric(NamedTuple):
    """One figure of one model. `better`: 1 for more, -1 for less, 0 for neither; `drawn`: whether it has a chart.

    `basis` names what it was measured on, where that can differ from model to model: figures of one basis compare.
    `interval` is the 95% interval, in place of a standard `error`.
    """

    section: str
    label: str
    value: float
    kind: str = "number"
    better: int = 0
    drawn: bool = False
    error: float = 0.0
    chance: float = 0.0
    basis: str = ""
    interval: tuple[float, float] | None = None


def write_reports(report: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Writes `evaluation.md`, `evaluation.json`, of several models `comparison.svg`, of rewriting `rewriting.svg`.

    Returns their paths.

    Raises JslmError where they can't be written.
    """
    folder = Path(folder)
    drawing = chart(report)
    text = markdown(report, with_chart=bool(drawing), with_curves=bool(plots := curves(report["runs"])))
    files = {REPORT: text, FIGURES: as_json(report), CHART: drawing, CURVES: plots}
    for name, text in files.items():
        if text:
            write_text(folder / name, text)
    return [folder / name for name, text in files.items() if text]


def as_json(report: Mapping[str, Any]) -> str:
    """The report as JSON; what is not finite becomes null."""
    return json.dumps(finite(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown(report: Mapping[str, Any], *, with_chart: bool = False, with_curves: bool = False) -> str:
    """The report for people: a table a section, a column a model, in bold the best figure of several that compare."""
    runs: list[Record] = list(report["runs"])
    names = [_cell(run["name"]) for run in runs]
    lines = ["# Evaluation", "", f"jslm {report['jslm']}, {report['date']}, {report['device']}.", ""]
    lines += _table(["", *names], _model_rows(runs))
    columns = [{(metric.section, metric.label): metric for metric in metrics(run)} for run in runs]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    for section in dict.fromkeys(section for section, _ in keys):
        rows = [
            [_cell(label), *_figures([column.get((section, label)) for column in columns])]
            for place, label in keys
            if place == section
        ]
        lines += [f"## {_cell(section)}", "", *_table(["", *names], rows), *_notes(section, runs)]
    if with_chart:
        lines += ["## Side by side", "", f"![bars of the main figures of each model]({CHART})", ""]
    if with_curves:
        lines += ["## How sure", "", f"![precision at coverage, and how often rewrites are right]({CURVES})", ""]
    for run in runs:
        lines += _mistakes(run)
    return "\n".join(lines).rstrip() + "\n"


def chart(report: Mapping[str, Any]) -> str:
    """The main figures of several models as an SVG of bars; nothing for a single model."""
    runs = list(report["runs"])
    if len(runs) < 2:
        return ""
    columns = [{(m.section, m.label): m for m in metrics(run) if m.drawn} for run in runs]
    panels = []
    for key in dict.fromkeys(key for column in columns for key in column):
        found = [column.get(key) for column in columns]
        one = next(metric for metric in found if metric is not None)
        # Bars side by side would compare what does not.
        if not _compare(found):
            continue
        panels.append(
            Panel(
                title=f"{one.label}: {Path(one.section.removeprefix(_LOSS)).name}",
                hint="higher is better" if one.better > 0 else "lower is better",
                values=[math.nan if metric is None else metric.value for metric in found],
                labels=["" if metric is None else _number(metric) for metric in found],
                errors=[0.0 if metric is None else metric.error for metric in found],
                line=one.chance,
            )
        )
    return bars([run["name"] for run in runs], panels)


def metrics(run: Record) -> Iterator[Metric]:
    """All figures of a model's record, in the order of the report."""
    for text, loss in run["losses"].items():
        section = f"{_LOSS}{text}"
        basis = f"{loss['text_sha256']}, {loss.get('unknown_characters', 0)} unknown"
        yield Metric(section, "bits per byte", loss["bits_per_byte"], better=-1, drawn=True, basis=basis)
        if baseline := run.get("baselines", {}).get(text):
            yield Metric(section, f"{NAME}: bits per byte", baseline["bits_per_byte"])
        yield Metric(section, "bits per character", loss["bits_per_character"])
        yield Metric(section, "loss (nats a token)", loss["loss"])
        yield Metric(section, "perplexity (a token)", loss["perplexity"])
        for key in ("tokens", "bytes", "characters", "documents", "context", "stride", "unknown_characters"):
            if key in loss:
                yield Metric(section, key.replace("_", " "), loss[key], "count")
    for task, record in run["tasks"].items():
        normalized = "accuracy_normalized" in record and task != "blimp"
        error, chance = record["stderr"], record.get("chance", 0.0)
        yield Metric(task, "accuracy", record["accuracy"], "share", 1, not normalized, error, chance)
        if normalized:
            value = record["accuracy_normalized"]
            error = math.sqrt(value * (1 - value) / record["items"])
            yield Metric(task, "accuracy, a character", value, "share", 1, True, error, chance)
        if "perplexity" in record:
            yield Metric(task, "perplexity of the missing word", record["perplexity"], better=-1)
        if chance:
            yield Metric(task, "by chance", chance, "share")
        yield Metric(task, "items", record["items"], "count")
        for group, part in record.get("groups", {}).items():
            yield Metric(task, group, part["accuracy"], "share", 1)
    for task, record in run.get("suite", {}).items():
        yield from _suite(f"{_SUITE}{task}", record)
    for file, record in run.get("rewriting", {}).items():
        yield from _rewriting(f"Rewriting {Path(file).name}", record)
    for file, record in run.get("answers", {}).items():
        yield from _answers(f"Sentences of {Path(file).name}", record)
    if "samples" in run:
        yield from _samples(run["samples"], run["tokenizer"]["fingerprint"])
    if "stories" in run:
        yield Metric("Stories", "sound", run["stories"]["passed"] / run["stories"]["of"], "share", 1, True)
        for problem, count in run["stories"]["problems"].items():
            yield Metric("Stories", problem, count, "count")


_SUITE_FIGURES = {
    "acc": ("accuracy", "share", 1),
    "acc_norm": ("accuracy, a character", "share", 1),
    "perplexity": ("perplexity of the missing word", "number", -1),
}


def _suite(section: str, record: Record) -> Iterator[Metric]:
    main = "acc_norm" if "acc_norm" in record["metrics"] else "acc"
    for name, figure in record["metrics"].items():
        label, kind, better = _SUITE_FIGURES[name]
        found = Metric(section, label, figure["value"], kind, better, name == main)
        if math.isfinite(width := figure["high"] - figure["low"]):
            found = found._replace(error=width / 2, interval=(figure["low"], figure["high"]))
        yield found
    yield Metric(section, "documents", record["documents"], "count")
    yield Metric(section, "documents of the whole benchmark", record["official"], "count")
    yield Metric(section, "tokens scored", record["tokens"], "count")
    for name, part in record.get("parts", {}).items():
        yield Metric(section, name, part["value"], "share", 1, interval=(part["low"], part["high"]))


def _rewriting(section: str, record: Record) -> Iterator[Metric]:
    yield Metric(section, "exact match", record["exact_match"], "share", 1, True)
    yield Metric(section, "edit distance (characters)", record["edit_distance"], better=-1)
    yield Metric(section, "character error rate", record["error_rate"], "share", -1)
    yield Metric(section, "chrF", record["chrf"], better=1)
    yield Metric(section, "pairs", record["items"], "count")
    for category, part in record.get("categories", {}).items():
        yield Metric(section, f"{category}: exact match", part["exact_match"], "share", 1)
        yield Metric(section, f"{category}: edit distance", part["edit_distance"], better=-1)
        yield Metric(section, f"{category}: chrF", part["chrf"], better=1)


_ANSWERS = {
    "exact": ("exact, of those to change", 1, True),
    "acceptable": ("acceptable (punctuation and case aside)", 1, True),
    "left_wrongly": ("left alone wrongly", -1, False),
    "left_rightly": ("left alone rightly, of those to leave", 1, True),
    "precision": ("acceptable, of those changed", 1, True),
    "unfaithful": ("unfaithful, of those changed", -1, False),
    "unfaithful_written": ("unfaithful, before the check", -1, False),
}


def _answers(section: str, record: Record) -> Iterator[Metric]:
    for name, (label, better, drawn) in _ANSWERS.items():
        if share := record[name]:
            error = (share["high"] - share["low"]) / 2
            yield Metric(section, label, share["value"], "share", better, drawn, error)
    for key in ("items", "to_change", "to_leave", "changed"):
        yield Metric(section, key.replace("_", " "), record[key], "count")
    yield Metric(section, "threshold", record["threshold"])
    for point in record["curve"]:
        label, error = f"precision at {point['coverage']:.0%} coverage", (point["high"] - point["low"]) / 2
        yield Metric(section, label, point["precision"], "share", 1, False, error)
    if share := record["answered"]:
        error = (share["high"] - share["low"]) / 2
        yield Metric(section, "coverage without a threshold", share["value"], "share", 0, False, error)
    if "added" in (lints := record.get("lints", {})):
        yield Metric(section, "lints of the sentences that changed, before", lints["before"], "count")
        yield Metric(section, "lints of their rewrites", lints["after"], "count", -1)
        yield Metric(section, "rewrites with a lint that is new", lints["added"], "count", -1)
    for number, part in enumerate(record["reliability"], 1):
        label = f"right, of fifth {number} by confidence (it says {part['confidence']:.0%})"
        yield Metric(section, label, part["right"], "share")
    for groups in (record["registers"], record["lengths"]):
        for name, part in groups.items():
            for key in ("acceptable", "left_rightly"):
                if share := part[key]:
                    error = (share["high"] - share["low"]) / 2
                    label = f"{name}: {'acceptable' if key == 'acceptable' else 'left alone rightly'}"
                    yield Metric(section, label, share["value"], "share", 1, False, error)


def _samples(record: Record, fingerprint: str) -> Iterator[Metric]:
    section = "Samples"
    for order, value in record["distinct"].items():
        yield Metric(section, f"distinct-{order}", value, "share", 0)
    yield Metric(section, "repeated 4-grams", record["repetition"], "share", -1, True)
    yield Metric(section, "ended by themselves", record["ended"], "share")
    yield Metric(section, "mean tokens", record["mean_tokens"])
    yield Metric(section, "samples", record["samples"], "count")
    copies = record.get("copies")
    if copies:
        basis = f"{copies['training_sha256']} in tokens of {fingerprint}"
        for label, key, kind, drawn in (
            ("longest copy (tokens)", "longest_tokens", "count", True),
            ("longest copy (characters)", "longest_characters", "count", False),
            ("median longest copy (tokens)", "median_tokens", "number", False),
            ("longest copy, mean share of a sample", "mean_share", "share", False),
        ):
            yield Metric(section, label, copies[key], kind, -1, drawn, basis=basis)
        if "held_out" in copies:
            yield Metric(section, "held-out text: longest copy (tokens)", copies["held_out"]["longest_tokens"], "count")
            yield Metric(section, "held-out text: median longest copy", copies["held_out"]["median_tokens"])


def _model_rows(runs: Sequence[Record]) -> list[list[str]]:
    rows = [
        ["source", *(_cell(run["source"]) for run in runs)],
        ["parameters", *(f"{run['parameters']:,}" for run in runs)],
        ["context (tokens)", *(f"{run['context_length']:,}" for run in runs)],
        ["tokenizer", *(f"{run['tokenizer']['kind']}, {run['tokenizer']['vocab_size']:,} tokens" for run in runs)],
        ["computed in", *(run["dtype"] for run in runs)],
    ]
    if any("step" in run for run in runs):
        rows.append(["step of the checkpoint", *(f"{run['step']:,}" if "step" in run else "" for run in runs)])
    return rows


def _notes(section: str, runs: Sequence[Record]) -> list[str]:
    remedies = [
        record["lints"]["remedy"]
        for run in runs
        for file, record in run.get("answers", {}).items()
        if section.endswith(f" of {Path(file).name}") and "remedy" in record.get("lints", {})
    ]
    if remedies:
        return [f"{remedies[0][0].upper()}{remedies[0][1:]}.", ""]
    if section.startswith(_LOSS):
        text = section.removeprefix(_LOSS)
        note = (
            "Each token is predicted once, the first after the start of a document, in windows of the context, each a "
            "stride after the one before; end-of-text tokens count as tokens of no bytes."
        )
        measured = [metric for run in runs for metric in metrics(run) if metric.section == section and metric.better]
        if len(measured) > 1 and _compare(measured):
            note += " All models were measured on the same text: the fewest bits per byte are in bold."
            if len({run["tokenizer"]["fingerprint"] for run in runs}) > 1:
                note += " The tokenizers differ: loss and perplexity, which are a token's, do not compare."
        elif len({run["losses"][text]["text_sha256"] for run in runs if text in run["losses"]}) > 1:
            remedy = (
                "`--text FILE` measures all on one"
                if text.startswith(("val split", "train split"))
                else "their cleaners or line breaks differ"
            )
            note += f" The models read different texts, and no figure here compares them: {remedy}."
        elif len(measured) > 1:
            note += " Tokenizers do not know all characters of the text, and leave them out: no figure here compares."
        if any(baselines := [run.get("baselines", {}).get(text) for run in runs]):
            note += (
                f" {NAME}: what counting the training text's runs of five bytes makes of the same text; a model that "
                "does no better has learned no more than that."
            )
            note += "".join(
                dict.fromkeys(f"{said_limits(found)}." for found in baselines if found and said_limits(found))
            )
        return [note, ""]
    if section.startswith(_SUITE):
        record = next(run["suite"][name] for run in runs if (name := section.removeprefix(_SUITE)) in run["suite"])
        note = f"By lm-evaluation-harness {record['harness']}, zero-shot; in brackets 95% intervals."
        if record["missing"]:
            note += f" **Partial**: {record['missing']}. No published figure of the whole compares with this."
        return [note, ""]
    if section == "Samples":
        found = [run["samples"]["copies"] for run in runs if "copies" in run.get("samples", {})]
        if found:
            least = found[0]["least_tokens"]
            note = f"Copies are runs of {least} tokens or more that stand in the training data word for word."
            bases = {metric.basis for run in runs for metric in metrics(run) if metric.section == section}
            if len(bases - {""}) > 1:
                note += " They compare between models of one corpus and one tokenizer, which these are not."
            return [note, ""]
    return []


def _mistakes(run: Record) -> list[str]:
    lines = []
    for file, record in [*run.get("rewriting", {}).items(), *run.get("answers", {}).items()]:
        if record["mistakes"]:
            lines += [f"## Mistakes of {_cell(run['name'])} on {_cell(Path(file).name)}", ""]
            keys = ("category", "prompt", "completion", "found")
            rows = [[_cell(mistake[key]) for key in keys] for mistake in record["mistakes"]]
            lines += _table(["category", "prompt", "expected", "found"], rows)
    return lines


def _figures(found: Sequence[Metric | None]) -> list[str]:
    present = [metric for metric in found if metric is not None]
    best = math.nan
    if len(present) > 1 and present[0].better and _compare(present) and len({metric.value for metric in present}) > 1:
        best = (max if present[0].better > 0 else min)(metric.value for metric in present)
    cells = []
    for metric in found:
        text = "" if metric is None else _number(metric)
        if metric is not None and metric.interval:
            low, high = (metric._replace(value=value) for value in metric.interval)
            text += f" [{_number(low)}, {_number(high)}]"
        elif metric is not None and metric.error:
            text += f" ± {100 * metric.error:.1f}"
        cells.append(f"**{text}**" if metric is not None and metric.value == best else text)
    return cells


def _compare(found: Sequence[Metric | None]) -> bool:
    return len({metric.basis for metric in found if metric is not None}) == 1


def _number(metric: Metric) -> str:
    if metric.kind == "share":
        return f"{100 * metric.value:.1f}%"
    if metric.kind == "count":
        return f"{metric.value:,.0f}"
    return f"{metric.value:,.4f}" if abs(metric.value) < 100 else f"{metric.value:,.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])] if head[0] == "" else ["---" for _ in head]
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
