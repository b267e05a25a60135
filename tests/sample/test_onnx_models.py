"""An exported ONNX folder, opened by every verb: the texts are those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jslm
from jslm.errors import JslmError
from jslm.evaluate.__main__ import main as evaluate_main
from jslm.evaluate.text_loss import text_loss
from jslm.formats.onnx.model import write
from jslm.infer import LanguageModel
from jslm.runs.bundle import Bundle
from jslm.sample.__main__ import main as sample_main

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnx", reason="the extra onnx is not installed")


def exported(model: LanguageModel, folder: Path, dtype: str = "float32", **options: Any) -> LanguageModel:
    layers = jax.tree.map(lambda *leaves: np.stack(leaves), *model.params["layers"])
    params = {**jax.tree.map(np.asarray, {k: v for k, v in model.params.items() if k != "layers"}), "layers": layers}
    bundle = Bundle(model.config, params, model.tokenizer, ends_documents=model.ends_documents)
    write(bundle, folder, dtype, **options)
    return jslm.load(folder)


@pytest.fixture(scope="module")
def ours(letters: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return exported(letters, tmp_path_factory.mktemp("onnx") / "letters")


@pytest.mark.parametrize(
    "values",
    [
        {"greedy": True},
        {"seed": 3, "temperature": 1.3, "top_k": 9, "num_samples": 2},
        {"seed": 1, "top_p": 0.8, "repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.1},
        {"greedy": True, "sliding_window": True, "max_new_tokens": 90},
        {"seed": 5, "stop": "e", "top_logprobs": 2},
    ],
    ids=["greedy", "drawn", "penalties", "window", "stop"],
)
def test_texts_are_those_of_the_run(letters: LanguageModel, ours: LanguageModel, values: dict[str, Any]) -> None:
    prompts = ["abc", "", "a longer prompt than others"]
    wanted, found = letters.generate_results(prompts, **values), ours.generate_results(prompts, **values)
    assert [result.text for result in found] == [result.text for result in wanted]
    for ours_, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours_.logprobs, theirs.logprobs, atol=1e-4)
        assert [[token for token, _ in top] for top in ours_.top_logprobs] == [
            [token for token, _ in top] for top in theirs.top_logprobs
        ]
    assert "".join(ours.stream("abc", greedy=True)) == letters.generate("abc", greedy=True)


def test_logits_and_losses_are_those_of_the_run(letters: LanguageModel, ours: LanguageModel) -> None:
    ids = [[256, *b"abcdefg"], [256, *b"gfedcba"]]
    np.testing.assert_allclose(
        ours.logits(ids), letters.logits(ids), atol=2e-5 * float(np.abs(letters.logits(ids)).max())
    )
    text = "several words of text, " * 9
    assert text_loss(ours, text).nats == pytest.approx(text_loss(letters, text).nats, rel=1e-5)


def test_rewriting_is_that_of_the_run(rewriter: LanguageModel, pairs: dict[str, str], tmp_path: Path) -> None:
    ours = exported(rewriter, tmp_path / "rewriter")
    sentences = [*pairs, "The old house was eaten by Ann."]
    wanted, found = rewriter.rewrite(sentences), ours.rewrite(sentences, batch_size=3)
    assert [each.output for each in found] == [each.output for each in wanted]
    assert [each.confidence for each in found] == pytest.approx([each.confidence for each in wanted], abs=1e-4)
    with pytest.raises(JslmError, match="onnxruntime, which has no beam search; open its run folder"):
        ours.rewrite(sentences[:1], beams=2)


def test_what_the_graph_fixes_cannot_be_changed(letters: LanguageModel, ours: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    exported(letters, folder)
    with pytest.raises(JslmError, match=r"model\.context_length is fixed in an ONNX graph; export the run again"):
        jslm.load(folder, overrides=["model.context_length=128"])
    assert jslm.load(folder, overrides=["sample.temperature=0.5"]).config.sample.temperature == 0.5
    with pytest.raises(JslmError, match="a graph alone, without tokenizer; give the folder"):
        jslm.load(folder / "onnx" / "model.onnx")
    with pytest.raises(JslmError, match="run by onnxruntime, and its weights are in its graph alone"):
        _ = ours.params


def test_the_command_line_opens_it(letters: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "letters"
    exported(letters, folder, "int8")

    capsys.readouterr()
    arguments = ["--prompt", "abc", "--greedy", "--max-new-tokens", "12", "--json"]
    assert sample_main(["--run", str(folder), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == jslm.load(folder).generate(
        "abc", greedy=True, max_new_tokens=12
    )
    (tmp_path / "text.txt").write_text("some words of text\n" * 5, "utf-8")
    assert evaluate_main(["--run", str(folder), "--text", str(tmp_path / "text.txt"), "--json"]) == 0
    assert "onnxruntime" in json.loads(capsys.readouterr().out)["runs"][0]["dtype"]
