"""Libraries of extras, imported where they are needed; what lacks one says how to add it."""

from __future__ import annotations

import importlib
from typing import Any

from jslm.errors import JslmError
from jslm.installation import install_command


def load_extra(module: str, extra: str, need: str) -> Any:
    """The module, imported now; `need` begins the error where it is not installed, as in "writing GGUF".

    Raises JslmError with the command that installs the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise JslmError(f"{need} needs the package {package}: {install_command(extra)}") from None
