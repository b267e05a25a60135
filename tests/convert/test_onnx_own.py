"""jslm's own graph of an exported model: the same weights, caches written in place, the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jslm
from jslm import JslmError
from jslm.formats.onnx import OnnxDecoder, OwnDecoder, open_decoder, own_runtime
from jslm.formats.onnx.model import write
from jslm.infer import LanguageModel
from jslm.infer.onnx_programs import OnnxPrograms
from tests.convert.test_onnx import SHAPES, cached_greedy, make_bundle, own_logits, prompts

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CASES = [(shape, 20) for shape in SHAPES] + [("qk_norm", 23), ("gqa untied", 23)]


def wide_bundle(shape: str) -> Any:
    """Heads as wide as onnxruntime's attention takes."""
    return make_bundle(**{**SHAPES[shape], "head_dim": 16})


@pytest.mark.parametrize(("shape", "opset"), CASES)
def test_the_same_logits_and_tokens(shape: str, opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Caches that have to grow.
    monkeypatch.setattr(own_runtime, "_SLOTS", 8)
    bundle = wide_bundle(shape)
    write(bundle, tmp_path / "out", "float32", opset=opset)
    decoder, ids = OwnDecoder(tmp_path / "out"), prompts()[0]
    wanted = own_logits(bundle, ids)
    assert np.abs(decoder.logits(ids) - wanted).max() < 2e-5
    # The exported graph's are compared with JAX's elsewhere.
    np.testing.assert_array_equal(cached_greedy(decoder), cached_greedy(OnnxDecoder(tmp_path / "out")))
    # In pieces, rows apart, and all logits of a piece.
    cache, _ = decoder.prefill(ids[:, :2], [2, 2, 2])
    cache, last = decoder.read(ids[:, 2:5], [3, 3, 3], cache, [2, 2, 2])
    assert np.abs(last - wanted[:, 4]).max() < 2e-5
    cache, every = decoder.read_all(ids[:, 5:], cache, [5, 5, 5])
    assert np.abs(every - wanted[:, 5:]).max() < 2e-5
    assert cache.capacity == 16
    # int8 has the exported graph's weights; how it rounds what comes in may differ in a step.
    exported, own = (opened(tmp_path / "out", kind="int8").logits(ids) for opened in (OnnxDecoder, OwnDecoder))
    assert np.sqrt(np.mean(np.square(own - exported))) < 0.05 < np.sqrt(np.mean(np.square(exported)))


def test_conditions_are_a_rows_own(tmp_path: Path) -> None:
    bundle = wide_bundle("conditions")
    write(bundle, tmp_path / "both", "float32")
    write(bundle, tmp_path / "one", "float32", condition={"style": "formal"})
    ids, labels = prompts()[0][:2], np.array([[1, -1], [-1, 0]])
    decoder = OwnDecoder(tmp_path / "both")
    for row in range(2):
        wanted = own_logits(bundle, ids[row : row + 1], list(labels[row]))[0]
        assert np.abs(decoder.logits(ids, labels)[row] - wanted).max() < 2e-5
        cache, _ = decoder.prefill(ids[:, :4], [4, 4], labels)
        _, logits = decoder.step(ids[:, 4], cache, [4, 4], labels)
        assert np.abs(logits[row] - wanted[4]).max() < 2e-5
    one = OwnDecoder(tmp_path / "one")
    assert one.open_conditions == ["mood"]
    assert np.abs(one.logits(ids[:1], [[-1]]) - own_logits(bundle, ids[:1], [1, -1])).max() < 2e-5


def test_a_rows_length_is_bounded(tmp_path: Path) -> None:
    write(wide_bundle("llama"), tmp_path / "out", "int8")
    decoder = OwnDecoder(tmp_path / "out")
    context = decoder.model.context_length
    cache, _ = decoder.prefill(np.ones((1, context), int), [context])
    assert cache.capacity == context
    with pytest.raises(JslmError, match=f"position {context}, and the context is {context} tokens"):
        decoder.read([[1]], [1], cache, [context])
    with pytest.raises(JslmError, match=f"{context + 1} tokens, and the context is {context}"):
        decoder.logits(np.ones((1, context + 1), int))


def test_what_is_opened_writes_by_it(tmp_path: Path) -> None:
    bundle = wide_bundle("llama")
    write(bundle, tmp_path / "wide", "float32")
    model = jslm.load(tmp_path / "wide")
    assert isinstance(model.programs, OnnxPrograms)
    assert isinstance(model.programs.decoder, OwnDecoder)
    plain = LanguageModel(bundle.config, bundle.params, bundle.tokenizer)
    for options in ({"greedy": True}, {"temperature": 0.8, "seed": 3, "repetition_penalty": 1.3}):
        asked: dict[str, Any] = {**options, "max_new_tokens": 8, "num_samples": 2}
        found, wanted = (one.generate_results("a text", **asked) for one in (model, plain))
        assert [result.tokens for result in found] == [result.tokens for result in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)


def test_narrow_heads_run_in_the_exported_graph(tmp_path: Path) -> None:
    write(make_bundle(), tmp_path / "narrow", "float32")
    assert isinstance(open_decoder(tmp_path / "narrow"), OnnxDecoder)
    with pytest.raises(JslmError, match="heads of 8, and GroupQueryAttention takes multiples of 16"):
        OwnDecoder(tmp_path / "narrow")
