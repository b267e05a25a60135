"""The test vectors are what jslm makes of their models."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "vectors"
NAMES = ("bpe_yarn", "byte_gpt2", "char_llama", "char_softcap", "rewriter", "rewriter_int8")


def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_vectors", ROOT / "scripts" / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_six_small_models() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.safetensors")) == sorted(NAMES)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 110_000


@pytest.mark.parametrize("name", NAMES)
def test_jslm_makes_the_same_of_each(name: str) -> None:
    kept = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    path = FOLDER / kept["model"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == kept["sha256"]
    found = script().make_vectors(path)
    hint = "if that is meant, run scripts/make_vectors.py and say so in CHANGELOG.md"
    assert found.keys() == kept.keys()
    assert found["texts"] == kept["texts"], hint
    for one, other in zip(found["cases"], kept["cases"], strict=True):
        np.testing.assert_allclose(one.pop("logits"), other.pop("logits"), rtol=0, atol=3e-5, err_msg=hint)
        assert one == other, hint
    for one, other in zip(found.get("rewrites", []), kept.get("rewrites", []), strict=True):
        for name, tolerance in (("confidence", 1e-3), ("logprob", 2e-4)):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=tolerance), hint
        assert _plain(one) == _plain(other), hint
    assert found.get("differences") == kept.get("differences"), hint


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """A reason without the last digit of its probability."""
    return {**entry, "reason": re.sub(r"(0\.\d)\d", r"\1", entry["reason"])}


def test_the_rewriters_really_rewrite() -> None:
    for name in ("rewriter", "rewriter_int8"):
        kept = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        plain = [entry for entry in kept["rewrites"] if not entry["conditions"]]
        assert len(plain) >= 100
        assert sum(entry["source"] != entry["output"] for entry in plain) >= 80
        # Silent for most of the reasons that there are.
        if name == "rewriter_int8":
            assert len({entry["reason"].partition(":")[0] for entry in plain}) >= 5
        answers = {passive: active for passive, active, _ in script()._sentences()}
        right = [answers[entry["source"]] == entry["output"] for entry in plain if entry["source"] in answers]
        assert sum(right) / len(right) > 0.9
