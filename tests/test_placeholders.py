"""No string shows its own placeholder: an f-string that lacks its f, or a field that holds a string of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_FIELD = re.compile(r"(?<!\{)\{([^{}]+)\}(?!\})")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def unformatted(source: str) -> list[str]:
    """`line: {placeholder}` for each string whose placeholder is made of names that are known where it stands.

    Not those of docstrings, of `.format(...)`, of pydantic's templates, and of the braces that an f-string doubles,
    which are meant.
    """
    tree = ast.parse(source)
    return list(_search(tree, names_in(tree), source))


def names_in(scope: ast.AST) -> set[str]:
    """Names that the scope itself binds: assigned, imported, defined, or its arguments."""
    found: set[str] = set()
    nodes = list(ast.iter_child_nodes(scope))
    while nodes:
        node = nodes.pop()
        match node:
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case ast.arg():
                found.add(node.arg)
            case ast.alias():
                found.add((node.asname or node.name).split(".")[0])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
                continue
        nodes += ast.iter_child_nodes(node)
    return found


def _search(node: ast.AST, known: set[str], source: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Constant(value=str(text)):
                fields = [] if _is_meant(node) else list(_fields(text, known))
                if isinstance(node, ast.JoinedStr):
                    # Parts of one string, with and without f, are one node: only its source shows doubled braces.
                    written = ast.get_source_segment(source, node) or ""
                    fields = [field for field in fields if f"{{{field}}}" not in written]
                yield from (f"{child.lineno}: {field}" for field in fields)
            case _:
                inner = known | names_in(child) if isinstance(child, _SCOPES) else known
                yield from _search(child, inner, source)


def _is_meant(parent: ast.AST) -> bool:
    is_format = isinstance(parent, ast.Attribute) and parent.attr in ("format", "format_map")
    is_template = isinstance(parent, ast.Call) and getattr(parent.func, "id", "") == "PydanticCustomError"
    return is_format or is_template or isinstance(parent, ast.Expr)


def _fields(text: str, known: set[str]) -> Iterator[str]:
    for match in _FIELD.finditer(text):
        try:
            field = ast.parse(f"f{match[0]!r}", mode="eval")
        except SyntaxError:
            continue
        names = {node.id for node in ast.walk(field) if isinstance(node, ast.Name)}
        if names and names <= known:
            yield match[0]


@pytest.mark.parametrize("folder", ["jslm", "scripts"])
def test_no_string_shows_its_placeholder(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := unformatted(path.read_text("utf-8")))
    }
    assert found == {}, "write an f before the string, or double its braces"


@pytest.mark.parametrize(
    "source",
    [
        "def f(entry):\n    return f\"{entry.id} {'{shown(entry.name)}'}\"\ndef shown(name): ...",
        "def f(name):\n    raise ValueError('no {name} here')",
        "def f(name):\n    return (f'{name}: '\n        'found {name!r}')",
        "import os\nprint('in {os.getcwd()}')",
        "def f(count):\n    return '{count:,} tokens'",
    ],
)
def test_a_forgotten_f_is_seen(source: str) -> None:
    assert len(unformatted(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of {name}."""\nname = 1',
        "name = 1\nprint('{name}'.format(name=name))",
        "name = 1\nprint(f'write {{name}}, found {name}')",
        "name = 1\nPydanticCustomError('kind', 'no {name}', {'name': name})",
        "kind = 1\nTEMPLATE = 'a {trait}'",
        "STYLE = 'body { color: red }'\nbody = 1",
    ],
)
def test_what_is_meant_is_quiet(source: str) -> None:
    assert unformatted(source) == []
