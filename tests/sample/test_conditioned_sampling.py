"""A model that is told what its text is to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm import JslmError
from jslm.config import config_from_dict
from jslm.formats.portable import write
from jslm.infer import LanguageModel
from jslm.model import apply_decoder, logits_from_hidden
from jslm.runs.bundle import Bundle
from jslm.sample.__main__ import main
from jslm.tokenizer import ByteTokenizer
from tests.random_models import spread_params

CONDITIONS = [{"name": "style", "labels": ["formal", "casual"]}, {"name": "domain", "labels": ["home", "sea"]}]


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "context_length": 64, "vocab_size": 257, "dtype": "float32"}
    tied = {"tie_embeddings": request.param == "tied", "conditions": CONDITIONS}
    config = config_from_dict({"model": {**shape, **tied}, "data": {"packing": "documents"}}, "test")
    return LanguageModel(config, spread_params(config.model, seed=0), ByteTokenizer())


def test_it_computes_what_training_computes(model: LanguageModel) -> None:
    ids = np.random.default_rng(1).integers(0, 257, (1, 20)).astype(np.int32)
    told = model.with_conditions({"domain": "sea", "style": "formal"})
    labels = jax.numpy.broadcast_to(jax.numpy.asarray([0, 1], jax.numpy.int32)[None, None], (1, 20, 2))
    with jax.set_mesh(model.mesh):
        hidden = apply_decoder(model.params, jax.numpy.asarray(ids), model.config.model, conditions=labels)
        wanted = logits_from_hidden(model.params, hidden, model.config.model)
    np.testing.assert_allclose(told.logits(ids), wanted, rtol=0, atol=1e-4)
    assert np.abs(told.logits(ids) - model.logits(ids)).max() > 0.1
    # Token by token, through the cache.
    [result] = told.generate_results("ab", greedy=True, max_new_tokens=30)
    so_far = [256, *b"ab"]
    for token in result.tokens:
        assert int(told.logits([so_far])[0, -1].argmax()) == token
        so_far.append(token)


def test_labels_differ_and_none_is_as_before(model: LanguageModel) -> None:
    texts = {
        model.with_conditions({"style": label}).generate("ab", greedy=True, max_new_tokens=30)
        for label in ("formal", "casual")
    }
    plain = model.generate("ab", greedy=True, max_new_tokens=30)
    assert len({*texts, plain}) == 3
    assert model.with_conditions({}).generate("ab", greedy=True, max_new_tokens=30) == plain
    told = model.with_conditions({"style": "formal"}).rewrite(["abc"], lookup=False)
    assert model.rewrite(["abc"], lookup=False, conditions={"style": "formal"}) == told


def test_what_it_does_not_know_is_named(model: LanguageModel) -> None:
    with pytest.raises(JslmError, match="no condition 'mood'; it has style, domain"):
        model.with_conditions({"mood": "glad"})
    with pytest.raises(JslmError, match="style=loud: 'style' can be formal, casual"):
        model.rewrite(["a"], conditions={"style": "loud"})


def test_on_the_command_line(model: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    write(Bundle(model.config, jax.tree.map(np.asarray, _stacked(model)), model.tokenizer), path, "float32")

    def sample(*arguments: str, status: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["--run", str(path), "--prompt", "ab", "--greedy", *arguments]) == status
        return capsys.readouterr()

    told, _ = sample("--max-new-tokens", "20", "--condition", "style=formal", "--condition", "domain=sea", "--json")
    assert told != sample("--max-new-tokens", "20", "--json")[0]
    for arguments, message in (
        (["--condition", "style"], "is no NAME=LABEL"),
        (["--condition", "style=formal", "--condition", "style=casual"], "comes twice"),
        (["--condition", "style=loud"], "'style' can be formal, casual"),
    ):
        assert message in sample(*arguments, status=2)[1]


def _stacked(model: LanguageModel) -> Any:
    layers = model.params["layers"]
    return {**model.params, "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


def test_a_request_has_conditions_of_its_own(model: LanguageModel) -> None:
    """Beside, and before, those that the model was told; in beams too."""
    values: dict[str, Any] = {"greedy": True, "max_new_tokens": 20}
    told = model.with_conditions({"style": "formal"})
    assert model.generate("ab", conditions={"style": "formal"}, **values) == told.generate("ab", **values)
    both = model.with_conditions({"style": "formal", "domain": "sea"}).generate("ab", **values)
    assert told.generate("ab", conditions={"domain": "sea"}, **values) == both
    casual = model.with_conditions({"style": "casual"}).generate("ab", **values)
    assert told.generate("ab", conditions={"style": "casual"}, **values) == casual
    found = [told.beam_search("ab", 2, max_new_tokens=9), model.beam_search("ab", 2, max_new_tokens=9)]
    assert found[0] == model.beam_search("ab", 2, max_new_tokens=9, conditions={"style": "formal"})
    assert found[0] != found[1]
    with pytest.raises(JslmError, match="style=loud: 'style' can be formal, casual"):
        model.generate("ab", conditions={"style": "loud"})
