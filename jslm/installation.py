"""How this copy of jslm was installed: where its presets are, and the command that adds an extra to it."""

from __future__ import annotations

import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

_PACKAGE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """The folder that holds `configs/` and `data/`: the source tree, or `jslm/shipped` of an installed package."""
    installed = _PACKAGE / "shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def install_command(extra: str) -> str:
    """The shell command that installs what an extra of pyproject.toml needs, whatever jslm was installed from.

    jslm is on no package index, so its name alone finds nothing or a stranger there: the command names the source tree,
    the repository, or else the extra's packages one by one.
    """
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{_PACKAGE.parent}[{extra}]')}"
    try:
        distribution = metadata.distribution("jslm")
    except metadata.PackageNotFoundError:
        return f"pip install what the extra {extra} of jslm's pyproject.toml lists"
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if address := _address(origin):
        return f"pip install {shlex.quote(f'jslm[{extra}] @ {address}')}"
    return f"pip install {' '.join(map(shlex.quote, extra_requirements(distribution.requires or [], extra)))}"


def extra_requirements(requires: list[str], extra: str) -> list[str]:
    """The requirements of an extra among a distribution's, without the marker that names it.

    >>> extra_requirements(["numpy>=2", 'gguf>=0.19; extra == "convert"'], "convert")
    ['gguf>=0.19']
    """
    found = []
    for line in requires:
        requirement, _, marker = line.partition(";")
        named = re.search(r"(?:^|\band\b)\s*extra\s*==\s*['\"]([^'\"]+)['\"]", marker.strip())
        if named and named[1] == extra:
            rest = marker.replace(named[0], "").strip()
            found.append(requirement.strip() + (f"; {rest}" if rest else ""))
    return found


def _address(origin: dict[str, object]) -> str:
    """The URL of PEP 610's record as pip takes it again; empty where there is none, or what it names has gone."""
    url, version_control = str(origin.get("url", "")), origin.get("vcs_info")
    if isinstance(version_control, dict):
        return f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    is_gone = url.startswith("file://") and not Path(unquote(url.removeprefix("file://"))).exists()
    return "" if is_gone else url
