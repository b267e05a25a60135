"""The report's word on what people made of the run beside another: the results of `jslm judge`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jslm.runs.folder import RunFolder
from jslm.train.report_sections import Run, section

_log = logging.getLogger("jslm")


def read_judgements(run_dir: Path) -> list[dict[str, Any]]:
    """The results in the run's folder, by name; a file that is damaged is named and left out."""
    found = []
    for path in sorted(RunFolder(run_dir).judgements.glob("*.json")):
        try:
            found.append(json.loads(path.read_text("utf-8")))
            _rows([found[-1]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            del found[-1:]
            _log.warning("%s: damaged (%s); the report goes without it", path, error)
    return found


def people(run: Run) -> str:
    """A row a question of each study: who was better how often, how sure that is, and whether people agree."""
    rows = _rows(run.judgements)
    if not rows:
        return ""
    cells = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "wins", "95% interval", "agreement"))
    return section(
        "Judged by people",
        f'<table class="bars"><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>'
        '<p class="note">Blind and side by side (jslm judge). Wins of the first, of the prompts that have a winner: '
        "a prompt counts once, for the one that more people prefer. Wilson's interval; Krippendorff's alpha (1: people "
        "always agree, 0: as by chance).</p>",
    )


def _rows(judgements: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            f"{one['a']} over {one['b']}, {question['name']} ({one['people']} "
            f"{'person' if one['people'] == 1 else 'people'}, {one['prompts']} prompts, {question['ties']} tied)",
            f"{question['a_wins']} of {question['a_wins'] + question['b_wins']}",
            "none has a winner" if question["rate"] is None else f"{question['low']:.0%} to {question['high']:.0%}",
            "" if question["alpha"] is None else f"{question['alpha']:.2f}",
        )
        for one in judgements
        for question in one["questions"]
    ]
