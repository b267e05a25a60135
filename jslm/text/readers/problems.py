"""What is done about input that cannot be read, and how a missing package is said."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from jslm.errors import JslmError
from jslm.installation import install_command

# Called for each unreadable file or record; where it returns, reading goes on behind the record or with the next file.
OnBad = Callable[[JslmError], None]


def stop(error: JslmError) -> NoReturn:
    """The `OnBad` that ends the reading."""
    raise error


def need(module: str, what: str, package: str = "") -> ModuleType:
    """Imports an optional package; raises JslmError that says what for, and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        name = package or module.split(".")[0]
        raise JslmError(f"{what} needs the package {name}, which is not installed: {install_command('data')}") from None
