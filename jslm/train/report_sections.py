"""The sections of a run's report, each from what the run folder holds; what is absent leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jslm.train.metrics import format_count, format_duration, format_rate
from jslm.train.report_charts import Chart, Line, Points, figure
from jslm.train.report_summary import Info, dig, format_bytes, format_moment, unlearned, verdict

# Further ones are folded: a model that has learned little makes hundreds, most of them once.
_SHOWN_PROBLEMS = 8
_REWARD_STYLES = {"chosen": "val", "rejected": "train"}
_STATUSES = {
    "finished": "Finished",
    "early_stopped": "Stopped early",
    "stopped": "Stopped by a callback",
    "interrupted": "Interrupted",
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds. `series` has (step, value) points by metric, in order of steps, all finite."""

    folder: Path
    info: Info
    series: Mapping[str, Points]
    config: str
    samples: Sequence[tuple[int, str, str]]
    judgements: Sequence[Mapping[str, Any]] = ()


def head(run: Run) -> str:
    """Name, status, verdict and key figures."""
    status = _STATUSES.get(str(run.info.get("status")), "Not finished")
    step = dig(run.info, "result", "step")
    moment = run.info.get("finished") or run.info.get("started")
    said = [status + (f" at step {step:,}" if step is not None else "")]
    said += [format_moment(moment)] if moment else []
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in _tiles(run)
    )
    return (
        f"<h1>{escape(run.folder.resolve().name)}</h1>"
        + f'<p class="status">{escape(" · ".join(said))}</p>'
        + f'<p class="verdict">{escape(verdict(run.info))}</p>'
        + (f'<dl class="tiles">{tiles}</dl>' if tiles else "")
    )


def charts(run: Run) -> str:
    """The curves of the run."""
    figures = "".join(figure(chart) for chart in _charts(run))
    if not figures:
        return section("Curves", "<p>No measurements have been written yet.</p>")
    return section("Curves", f'<div class="charts">{figures}</div>')


def samples(run: Run) -> str:
    """What the model wrote: the last step's samples in full, earlier steps folded."""
    if not run.samples:
        return ""
    steps = sorted({step for step, _, _ in run.samples}, reverse=True)
    shown = f'<p class="note">At step {steps[0]:,}. The prompt is in bold.</p>' + _quotes(run, steps[0])
    folded = "".join(f"<details><summary>Step {step:,}</summary>{_quotes(run, step)}</details>" for step in steps[1:])
    earlier = f"<details><summary>Earlier steps</summary>{folded}</details>" if folded else ""
    return section("Samples", shown + earlier)


def story_check(run: Run) -> str:
    """The share of generated stories that hold together, and what was wrong with the others."""
    check = run.info.get("story_check")
    of = dig(run.info, "story_check", "of")
    if not check or not of:
        return ""
    passed, problems = check.get("passed", 0), check.get("problems") or {}
    said = f"<p>{passed:,} of {of:,} generated stories ({passed / of:.0%}) passed every check.</p>"
    ordered = sorted(problems.items(), key=lambda item: -item[1])
    said += _bars("problem", dict(ordered[:_SHOWN_PROBLEMS]), of)
    if rest := dict(ordered[_SHOWN_PROBLEMS:]):
        more = f'<div class="scroll">{_bars("problem", rest, of)}</div>'
        said += f"<details><summary>{len(rest):,} more problems</summary>{more}</details>"
    return section("Story check", said)


def data(run: Run) -> str:
    """What was trained on."""
    splits = dig(run.info, "data") or {}
    shown = {
        name: _split_cells(splits[key])
        for name, key in (("training", "train"), ("validation", "val"))
        if splits.get(key)
    }
    sources = splits.get("sources") or []
    html = ""
    if shown:
        # A split a column: a phone has room for few.
        columns = "".join(f'<th scope="col">{name}</th>' for name in ("", *shown))
        rows = "".join(
            f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
            for name, *cells in zip(("tokens", "documents", "text", "bytes/token"), *shown.values(), strict=True)
        )
        html += f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"
    if sources:
        html += f'<p class="note">From {escape(", ".join(str(source) for source in sources))}.</p>'
    return section("Text", html)


def parameters(run: Run) -> str:
    """Parameters by part."""
    counts = dict(run.info.get("parameters") or {})
    total = counts.pop("total", None) or sum(counts.values())
    if not total:
        return ""
    return section("Parameters", f"<p>{total:,} in all.</p>" + _bars("part", counts, total))


def settings(run: Run) -> str:
    """The whole configuration and the environment."""
    config = f"<details><summary>config.toml</summary><pre>{escape(run.config)}</pre></details>" if run.config else ""
    facts: dict[str, Any] = {
        "devices": run.info.get("devices"),
        "mesh": " × ".join(f"{axis} {size}" for axis, size in (run.info.get("mesh") or {}).items()),
        "started": format_moment(run.info["started"]) if run.info.get("started") else None,
        "finished": format_moment(run.info["finished"]) if run.info.get("finished") else None,
        "python": run.info.get("python"),
        **(run.info.get("versions") or {}),
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value
    )
    table = f'<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""
    return section("Settings and environment", config + table)


def section(title: str, html: str) -> str:
    """A section of the page; nothing where it has no content."""
    return f"<section><h2>{title}</h2>{html}</section>" if html else ""


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    result = run.info.get("result") or {}
    tiles = []
    if (bits := result.get("val/bits_per_byte")) is not None:
        entropy = run.info.get("entropy_bits_per_byte")
        counting = dig(run.info, "baseline", "bits_per_byte")
        beside = f"text's entropy {entropy:.4g}" if entropy else "held-out text"
        tiles.append(("bits per byte", f"{bits:.4g}", f"byte 5-gram {counting:.4g}" if counting else beside))
    if (share := result.get("val/accuracy")) is not None:
        margin = result.get("val/margin")
        tiles.append(("preferred", f"{share:.1%}", "held-out pairs" if margin is None else f"margin {margin:.3g}"))
    if (loss := result.get("val/loss")) is not None:
        perplexity = result.get("val/perplexity")
        tiles.append(("validation loss", f"{loss:.3f}", f"perplexity {perplexity:.4g}" if perplexity else "nats"))
    elif (training := result.get("train/loss")) is not None:
        tiles.append(("training loss", f"{training:.3f}", f"nats per {_unit(run)}"))
    if (best := result.get("best_step")) is not None:
        best_loss = result.get("best_val/loss")
        tiles.append(("best step", f"{best:,}", f"loss {best_loss:.3f}" if best_loss is not None else ""))
    if (total := dig(run.info, "parameters", "total")) is not None:
        tiles.append(("parameters", format_count(total), f"{total:,}"))
    if (seen := result.get("tokens_seen")) is not None:
        passes = result.get("passes")
        said = "" if passes is None else f"{passes:.3g} passes"
        tiles.append(("tokens seen", format_count(seen), (said + unlearned(run.info)).strip()))
    if (seconds := result.get("train_seconds")) is not None:
        tiles.append(("training time", format_duration(seconds), str(run.info.get("devices") or "")))
    if (rate := result.get("tokens_per_s")) is not None:
        mfu = result.get("mfu")
        tiles.append(("speed", format_rate(rate, "tok"), f"MFU {mfu:.1%}" if mfu is not None else ""))
    return tiles


def _charts(run: Run) -> list[Chart]:
    series = run.series
    norms = series.get("grad_norm", ())
    smallest = min((value for _, value in norms), default=0.0)
    wide_range = smallest > 0 and max(value for _, value in norms) / smallest > 30
    return [
        _loss_chart(run, "loss", f"Loss, nats per {_unit(run)}", "loss"),
        _loss_chart(run, "bits", "Bits per byte", "bits_per_byte"),
        *_preference_charts(series),
        Chart("lr", "Learning rate", [Line("learning rate", series.get("lr", ()))], from_zero=True),
        Chart("grad", "Gradient norm", [Line("gradient norm", norms)], log=wide_range, from_zero=not wide_range),
        Chart("param", "Parameter norm", [Line("parameter norm", series.get("param_norm", ()))]),
        Chart("rate", "Tokens per second", [Line("tokens/s", series.get("tokens_per_s", ()))], from_zero=True),
        Chart(
            "mfu",
            "Model FLOP/s used, % of peak (MFU)",
            [Line("MFU, %", [(step, 100 * value) for step, value in series.get("mfu", ())])],
            from_zero=True,
        ),
    ]


def _unit(run: Run) -> str:
    return "pair" if run.info.get("objective") == "dpo" else "token"


def _preference_charts(series: Mapping[str, Points]) -> list[Chart]:
    def lines(metric: str) -> list[Line]:
        training, validation = (series.get(f"{part}/{metric}", ()) for part in ("train", "val"))
        return [Line("training", training), Line("validation", validation, "val", dots=True)]

    rewards = [Line(name, series.get(f"val/{name}_reward", ()), style) for name, style in _REWARD_STYLES.items()]
    return [
        Chart("accuracy", "Chosen answer preferred, share of pairs", lines("accuracy"), from_zero=True),
        Chart("margin", "Margin: chosen less rejected reward", lines("margin")),
        Chart("rewards", "Rewards of held-out answers", rewards),
    ]


def _loss_chart(run: Run, slug: str, title: str, metric: str) -> Chart:
    training, validation = run.series.get(f"train/{metric}", ()), run.series.get(f"val/{metric}", ())
    lines = [Line("training", training), Line("validation", validation, "val", dots=True)]
    ceiling, notes = None, []
    start = _start_above(training)
    if start is not None:
        ceiling = start
        notes.append(f"The curve starts at {training[0][1]:.3g}, above this view.")
    best = None
    if len(validation) > 1:
        step, value = min(validation, key=lambda point: point[1])
        best = (step, value, f"best {value:.4g}, step {step:,.0f}")
        last_step, last = validation[-1]
        if metric == "loss" and last > 1.02 * value:
            notes.append(
                f"Validation rose {last / value - 1:.0%} between step {step:,.0f} and step {last_step:,.0f}, a sign "
                f"that the model began to memorise its training text. The best checkpoint is from step {step:,.0f}."
            )
    entropy = run.info.get("entropy_bits_per_byte") if metric == "bits_per_byte" else None
    floor = (entropy, f"entropy of the text {entropy:.4g}") if entropy else None
    counting = dig(run.info, "baseline", "bits_per_byte") if metric == "bits_per_byte" else None
    bar = (counting, f"byte 5-gram, Kneser-Ney {counting:.4g}") if counting else None
    if bar and ceiling is not None:
        ceiling = max(ceiling, bar[0])
    return Chart(slug, title, lines, wide=True, ceiling=ceiling, floor=floor, bar=bar, best=best, note=" ".join(notes))


def _start_above(points: Points) -> float | None:
    """Where to cut the view: the highest value after the first twentieth, if the start is far above it."""
    if len(points) < 40:
        return None
    settled = [value for _, value in points[len(points) // 20 :]]
    low, high = min(settled), max(settled)
    return high if points[0][1] - low > 1.6 * (high - low) > 0 else None


def _quotes(run: Run, step: int) -> str:
    return "".join(
        f'<blockquote dir="auto">{f"<strong>{escape(prompt)}</strong>" if prompt else ""}{escape(text)}</blockquote>'
        for at, prompt, text in run.samples
        if at == step
    )


def _split_cells(split: Mapping[str, Any]) -> list[str]:
    tokens, documents, size = (split.get(key) for key in ("tokens", "documents", "bytes"))
    return [
        f"{tokens:,}" if tokens is not None else "",
        f"{documents:,}" if documents is not None else "",
        format_bytes(size) if size is not None else "",
        f"{size / tokens:.2f}" if size is not None and tokens else "",
    ]


def _bars(name: str, counts: Mapping[str, int], of: int) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(part))}</th><td>{count:,}</td><td>{count / of:.1%}</td>'
        f'<td class="bar"><i style="width:{min(1.0, count / of):.2%}"></i></td></tr>'
        for part, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    if not rows:
        return ""
    return (
        f'<table class="bars"><thead><tr><th scope="col">{name}</th><th scope="col">count</th>'
        f'<th scope="col">share</th><th class="bar" aria-hidden="true"></th></tr></thead><tbody>{rows}</tbody></table>'
    )
