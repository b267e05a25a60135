"""A server of ONNX folders: the samples are those of the runs, alone and in company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jslm
from jslm.errors import JslmError
from jslm.formats.onnx.model import write
from jslm.infer import LanguageModel
from jslm.runs.bundle import Bundle

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnx", reason="the extra onnx is not installed")


def exported(model: LanguageModel, folder: Path, **options: Any) -> LanguageModel:
    layers = jax.tree.map(lambda *leaves: np.stack(leaves), *model.params["layers"])
    params = {**jax.tree.map(np.asarray, {k: v for k, v in model.params.items() if k != "layers"}), "layers": layers}
    write(
        Bundle(model.config, params, model.tokenizer, ends_documents=model.ends_documents), folder, "float32", **options
    )
    return jslm.load(folder)


def test_samples_and_scores_are_those_of_the_run(
    make_bench: Callable[..., Any], letters: LanguageModel, tmp_path: Path
) -> None:
    bench = make_bench({"onnx": exported(letters, tmp_path / "model")})
    # The last one is read in two pieces.
    prompts = ["", "the one", "x" * 150]
    values: dict[str, Any] = {"seed": 5, "top_p": 0.95, "max_new_tokens": 25}
    wanted = letters.generate(prompts, **values)
    callers = [bench.ask("onnx", [prompt], **values) for prompt in prompts]
    assert [caller.wait()[0].text for caller in callers] == wanted
    (heard,) = bench.ask("onnx", ["x" * 150], max_new_tokens=1, scores_prompt=True, writes=False).wait()
    logits = letters.logits([256, *b"x" * 150])[0].astype(np.float64)
    scores = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(150), list(b"x" * 150)]
    assert [token.logprob for token in heard.prompt_tokens] == pytest.approx(scores.tolist(), abs=1e-4)


def test_conditions_are_chosen_or_built_in(
    make_bench: Callable[..., Any], styled: LanguageModel, tmp_path: Path
) -> None:
    chosen = exported(styled, tmp_path / "open")
    bench = make_bench({"onnx": chosen})
    values: dict[str, Any] = {"greedy": True, "max_new_tokens": 20}
    callers = []
    for style in ("formal", "casual"):
        wanted = styled.with_conditions({"style": style}).generate("ab", **values)
        assert chosen.generate("ab", conditions={"style": style}, **values) == wanted
        callers.append((bench.ask("onnx", ["ab"], conditions={"style": style}, **values), wanted))
    assert all(caller.wait()[0].text == wanted for caller, wanted in callers)
    fixed = exported(styled, tmp_path / "fixed", condition={"style": "formal"})
    assert fixed.generate("ab", **values) == callers[0][1]
    with pytest.raises(JslmError, match="style=casual: formal is built into this file; export the run again"):
        fixed.generate("ab", conditions={"style": "casual"}, **values)
