"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real corpora beside the checkout; tests that need it skip where it is absent."""
    if not ASSETS.is_dir():
        pytest.skip(f"no folder {ASSETS.parent.name}/{ASSETS.name} beside the checkout: real corpora are not here")
    return ASSETS
