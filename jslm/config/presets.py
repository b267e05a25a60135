"""The configs that come with jslm, by name: presets of `configs/` and the recipes of `data/`."""

from __future__ import annotations

import re
from pathlib import Path

from jslm.installation import shipped_folder

_NAME = re.compile(r"(data/)?[\w-]+")


def preset_files() -> dict[str, Path]:
    """Name -> file: `quickstart` is configs/quickstart.toml, `data/books` is data/books/recipe.toml."""
    folder = shipped_folder()
    presets = {path.stem: path for path in sorted((folder / "configs").glob("*.toml"))}
    recipes = {f"data/{path.parent.name}": path for path in sorted((folder / "data").glob("*/recipe.toml"))}
    return presets | recipes


def find_config(given: str | Path) -> Path:
    """The file that `--config` means: one that is there, else what comes with jslm by that name, else `given`."""
    path = Path(given)
    if path.is_file() or not _NAME.fullmatch(str(given)):
        return path
    return preset_files().get(str(given), path)


def describe(path: Path) -> str:
    """What a config is for: the first sentence of the comment it begins with; empty where there is none."""
    comment: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return re.split(r"(?<=\.)\s", " ".join(comment))[0].rstrip(".:")
