"""No message names a flag that the verb at hand may not have: what verbs share says whose flag it is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_OWNER = re.compile(r"\bjslm[ .](\w+)")
# What other verbs call too, of the verbs' own folders; the whole of what is no verb's.
_SHARED_OF_VERBS = ("prepare/check", "prepare/corpus", "prepare/encode", "prepare/pipeline")
_SHARED = (
    "text",
    "tokens",
    "prompts",
    "tokenizer",
    "model",
    "parallel",
    "config",
    "runs",
    "formats/opening.py",
    "formats/start.py",
    "infer",
    "files.py",
)
# XLA's flags, CSS's names, and a command of its own.
_FOREIGN = ("jslm/parallel/startup.py", "jslm/inspect/page.py", "jslm/corpora/chat_examples/generate.py")


def flags_of(source: str) -> set[str]:
    """The flags that a module's parsers know."""
    return {
        flag
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant)
        for flag in _FLAG.findall(str(argument.value))
    }


def stray_flags(source: str, flags: Mapping[str, set[str]]) -> list[str]:
    """`line: flag` for each flag in a message that no verb before it, as `jslm prepare`, has."""
    return list(_stray(source, flags))


def _stray(source: str, flags: Mapping[str, set[str]]) -> Iterator[str]:
    tree = ast.parse(source)
    names = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if id(node) in docstrings | inside or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else _named(part, names) for part in parts)
        for match in _FLAG.finditer(text):
            owners = _OWNER.findall(text[: match.start()])
            if not owners or match[0] not in flags[owners[-1]]:
                yield f"{node.lineno}: {match[0]}"


def _named(part: ast.expr, names: Mapping[str, str]) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    return names.get(value.id, "") if isinstance(value, ast.Name) else ""


def all_flags() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    common = flags_of((ROOT / "jslm" / "cli.py").read_text("utf-8"))
    for path in (ROOT / "jslm").glob("*/__main__.py"):
        found[path.parent.name] = common | flags_of(path.read_text("utf-8"))
    return found


def test_shared_messages_name_flags_with_their_verb() -> None:
    modules = [ROOT / "jslm" / f"{name}.py" for name in _SHARED_OF_VERBS]
    for name in _SHARED:
        path = ROOT / "jslm" / name
        modules += [path] if path.suffix else path.rglob("*.py")
    flags = all_flags()
    found = {}
    for path in modules:
        name = str(path.relative_to(ROOT))
        if name not in _FOREIGN and path.name != "__main__.py":
            found[name] = stray_flags(path.read_text("utf-8"), flags)
    assert len(found) > 50
    assert {name: lines for name, lines in found.items() if lines} == {}, "write `jslm VERB --flag`"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("raise E('prepare again with --force')", 1),
        ("raise E('prepare again: jslm prepare --config CONFIG --force')", 0),
        ("AGAIN = 'jslm prepare'\nraise E(f'again: {AGAIN} --force')", 0),
        ("raise E(f'{x}: use --sliding-window')", 1),
        ("raise E('jslm prepare --sliding-window')", 1),
        ("def f():\n    '''With --force.'''", 0),
    ],
)
def test_a_stray_flag_is_seen(source: str, count: int) -> None:
    assert len(stray_flags(source, all_flags())) == count
