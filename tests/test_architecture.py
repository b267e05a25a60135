"""Dependencies point one way, and each large library stays behind its one door."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 450

# A part may import itself and parts of a lower layer; parts of one layer don't know of each other.
LAYERS = (
    {"errors", "installation", "console", "lazy"},
    {"config", "extras", "files"},
    {"tokenizer", "parallel", "corpora", "storage"},
    {"prompts", "model"},
    {"text", "tokens", "runs"},
    {"formats", "learn"},
    {"infer"},
    {"cli", "dial"},
    {"prepare", "train", "sample", "evaluate", "judge", "convert", "plan", "serve", "sweep", "inspect", "configs"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
VERBS = LAYERS[-1]
# The package itself hands out `jslm.load`, and `__main__` files are command lines: they stand above everything.
ABOVE_ALL = {"jslm", "jslm.__main__", "jslm.data"}

ONE_DOOR = ("orbax", "grain", "tensorboardX", "tqdm")
FORBIDDEN_TO_MODEL = ("optax", "tokenizers", "tiktoken", "jslm.tokenizer", "jslm.text", "jslm.tokens", *ONE_DOOR)


def read_modules(root: Path) -> dict[str, str]:
    """Dotted module name -> source, for every module under `root`/jslm; a package's name is that of its folder."""
    names = {}
    for path in sorted((root / "jslm").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        names[name.removesuffix(".__init__")] = path.read_text("utf-8")
    return names


def imports(module: str, source: str, *, is_package: bool) -> Iterator[str]:
    """Dotted names that a module imports, inside functions too; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def violations(modules: Mapping[str, str]) -> list[str]:
    """What breaks the rules, one line each."""
    found = []
    doors: dict[str, set[str]] = defaultdict(set)
    for module, source in modules.items():
        is_package = any(name.startswith(f"{module}.") for name in modules)
        part = module.split(".")[1] if "." in module else ""
        if module not in ABOVE_ALL and part not in RANK:
            found.append(f"{module}: give jslm.{part} a place in LAYERS of {Path(__file__).name}")
            continue
        for target in imports(module, source, is_package=is_package):
            library = target.split(".")[0]
            if library in ONE_DOOR:
                doors[library].add(module)
            if library == "flax" and part != "model":
                found.append(f"{module} imports {target}: only jslm.model may import flax")
            if part == "model" and any(f"{target}.".startswith(f"{name}.") for name in FORBIDDEN_TO_MODEL):
                found.append(f"{module} imports {target}: jslm.model knows nothing of optimizers, files or tokenizers")
            if library == "jslm" and module not in ABOVE_ALL:
                found += internal_violations(module, target, modules)
    for library, users in doors.items():
        if len(users) > 1:
            found.append(f"{library} is imported by {', '.join(sorted(users))}: only one module may")
    return found


def internal_violations(module: str, target: str, modules: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a jslm module importing another."""
    part, other = module.split(".")[1], [*target.split("."), ""][1]
    if other in ("", "__version__") or other == part:
        return
    if other not in RANK:
        yield f"{module} imports {target}: jslm.{other} has no place in the layers"
    elif part in VERBS and other in VERBS:
        # `from jslm.sample import load` reads a package's public name; anything longer reaches inside.
        if target.count(".") > 2 or (target in modules and target.count(".") == 2):
            yield f"{module} imports {target}: a verb uses only the public names of jslm.{other}"
    elif RANK[other] >= RANK[part] and not (module.endswith(".__main__") and other == "cli"):
        yield f"{module} imports {target}: jslm.{part} stands below or beside jslm.{other}"


def test_tree_keeps_the_rules() -> None:
    assert violations(read_modules(ROOT)) == []


def test_imports_inside_functions_are_few() -> None:
    """Each is for a start-up time: a verb's work once its arguments are good, an extra, a part that few calls need."""
    inside = [
        f"{module}: {ast.unparse(node)}"
        for module, source in read_modules(ROOT).items()
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(inside) <= 25, "\n".join(inside)


def circles(modules: Mapping[str, str]) -> list[str]:
    """Parts that import each other by way of others, imports inside functions too; one line a part."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, source in modules.items():
        if module not in ABOVE_ALL:
            is_package = any(name.startswith(f"{module}.") for name in modules)
            part = module.split(".")[1]
            targets = [target.split(".") for target in imports(module, source, is_package=is_package)]
            arrows[part] |= {target[1] for target in targets if target[0] == "jslm" and len(target) > 1} - {part}
            if module.endswith(".__main__"):
                arrows[part].discard("cli")

    def reached(part: str) -> set[str]:
        found, ahead = set(), list(arrows[part])
        while ahead:
            if (other := ahead.pop()) not in found:
                found.add(other)
                ahead += arrows[other]
        return found

    return [f"jslm.{part} imports what imports it" for part in sorted(arrows) if part in reached(part)]


def test_there_is_no_circle() -> None:
    assert circles(read_modules(ROOT)) == []
    long = {"jslm.a": "import jslm.b", "jslm.b": "def f():\n    from jslm.c import x", "jslm.c": "from jslm.a import y"}
    assert circles({**long, "jslm.d": "import jslm.a"}) == [f"jslm.{part} imports what imports it" for part in "abc"]


def test_modules_are_short() -> None:
    lengths = {name: source.count("\n") for name, source in read_modules(ROOT).items()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}, f"split what is over {MAX_LINES} lines"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jslm.config.load", "from jslm.model import forward"),
        ("jslm.tokenizer.bpe", "from jslm.parallel import make_mesh"),
        ("jslm.text.reader", "def f():\n    from jslm.train import train"),
        ("jslm.model.layers", "import jslm.tokens.batches"),
        ("jslm.model.layers", "import optax"),
        ("jslm.model.layers", "from jslm.tokenizer import load"),
        ("jslm.model.layers", "from jslm import tokenizer"),
        ("jslm.model.layers", "from ..tokens import batches"),
        ("jslm.train.loop", "from jslm.sample.decode import generate"),
        ("jslm.train.loop", "import jslm.sample.decode"),
        ("jslm.train.loop", "from jslm.sample import decode"),
        ("jslm.learn.state", "from flax.training import train_state"),
        ("jslm.learn.state", "import flax.serialization"),
        ("jslm.learn.state", "import importlib\nimportlib.import_module('flax')"),
        ("jslm.text.reader", "from jslm.cli import run_verb"),
        ("jslm.cli", "from jslm.train import train"),
        ("jslm.misc.thing", ""),
        ("jslm.errors", "from .config import load"),
    ],
)
def test_breaking_a_rule_is_seen(module: str, source: str) -> None:
    others = {"jslm": "", "jslm.sample": "", "jslm.sample.decode": "", "jslm.tokens": "", "jslm.tokens.batches": ""}
    assert len(violations({**others, module: source})) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jslm.train.loop", "from jslm.sample import generate\nimport jslm.evaluate\nfrom .state import State"),
        ("jslm.train.loop", "import jax, optax, grain\nfrom jslm.model import forward\nfrom jslm.cli import run_verb"),
        ("jslm.model", "from .layers import Block\nfrom ..parallel import constrain\nimport flax.linen as nn"),
        ("jslm.config.__main__", "from jslm.cli import run_verb"),
        ("jslm", "def __getattr__(name):\n    from jslm.sample import load"),
    ],
)
def test_keeping_the_rules_is_quiet(module: str, source: str) -> None:
    others = {"jslm.sample": "", "jslm.sample.decode": "", "jslm.model.layers": ""}
    assert violations({**others, module: source}) == []


@pytest.mark.parametrize("library", ONE_DOOR)
def test_second_door_is_seen(library: str) -> None:
    one = {"jslm.train.a": f"import {library}.deep"}
    assert violations(one) == []
    assert violations({**one, "jslm.tokens.b": f"def f():\n    from {library} import x"}) == [
        f"{library} is imported by jslm.tokens.b, jslm.train.a: only one module may"
    ]
