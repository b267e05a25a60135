"""ONNX folders in other runtimes: the same numbers in tract, the same tokens in onnxruntime-genai, files that
transformers opens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.formats.onnx.model import write
from jslm.formats.onnx.runtime import OnnxDecoder
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied mqa": {"n_kv_heads": 1, "tie_embeddings": False, "head_dim": 32},
    "qk_norm": {"qk_norm": True, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0},
    "no positions": {"norm": "layernorm", "norm_bias": False, "position": "none", "activation": "relu2"},
    "softcap": {"activation": "gelu_exact", "logit_softcap": 5.0, "rope_scaling": {"kind": "yarn", "factor": 2.0}},
    "geglu": {"activation": "geglu", "rope_scaling": {"kind": "linear", "factor": 2.0}},
}
RandomBundle = Callable[..., Bundle]


def feeds_of(decoder: OnnxDecoder, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs for whole rows, with nothing before them."""
    model = decoder.model
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if model.position != "none":
        feeds["position_ids"] = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    empty = np.zeros((len(ids), model.kv_heads, 0, model.dim_per_head), np.float32)
    return feeds | {f"past_key_values.{n}.{part}": empty for n in range(model.n_layers) for part in ("key", "value")}


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_tract_computes_the_same(random_bundle: RandomBundle, tmp_path: Path, shape: str, opset: int) -> None:
    tract = pytest.importorskip("tract", reason="tract is not installed")
    write(random_bundle(ByteTokenizer(), **SHAPES[shape]), tmp_path / "out", "float32", opset=opset)
    noise = np.random.default_rng(0)
    for kind in ("float32", "int8"):
        decoder = OnnxDecoder(tmp_path / "out", kind=kind)
        runnable = tract.onnx().load(str(decoder.path)).into_model().into_runnable()
        session = onnxruntime.InferenceSession(str(decoder.path), providers=["CPUExecutionProvider"])
        # Rounding to integers may fall on the other side of a half.
        allowed = 2e-5 if kind == "float32" else 0.1
        feeds = feeds_of(decoder, noise.integers(0, 256, (2, 9)))
        for length in (3, 1):
            found = [one.to_numpy() for one in runnable.run(list(feeds.values()))]
            for one, other in zip(found, session.run(None, feeds), strict=True):
                np.testing.assert_allclose(one, other, atol=allowed)
            # More tokens, by the cache.
            before = feeds["attention_mask"].shape[1]
            feeds |= feeds_of(decoder, noise.integers(0, 256, (2, length)))
            feeds["attention_mask"] = np.ones((2, before + length), np.int64)
            if "position_ids" in feeds:
                feeds["position_ids"] += before
            feeds |= dict(zip([name for name in feeds if "past" in name], found[1:], strict=True))


@pytest.mark.parametrize("shape", ["llama", "qk_norm", "gpt2", "no positions"])
def test_genai_writes_the_same(random_bundle: RandomBundle, tmp_path: Path, shape: str) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    bundle = random_bundle(ByteTokenizer(), **SHAPES[shape])
    write(bundle, tmp_path / "out", "float32")
    prompt = [bundle.tokenizer.bos_id, *bundle.tokenizer.encode("Once upon")]
    model = genai.Model(str(tmp_path / "out"))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + 30)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)]
    decoder = OnnxDecoder(tmp_path / "out")
    cache, logits = decoder.prefill([prompt], [len(prompt)])
    wanted = list(prompt)
    while len(wanted) < len(prompt) + 30 and bundle.tokenizer.eot_id not in wanted[len(prompt) :]:
        wanted.append(int(logits[0].argmax()))
        cache, logits = decoder.step(wanted[-1:], cache, [len(wanted) - 1])
    assert found == wanted


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_genai_reads_the_same_text(random_bundle: RandomBundle, tmp_path: Path, kind: str) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    text = "Once upon a time there was a café, and a dog."
    tokenizer: Tokenizer = BpeTokenizer.train([text * 20], vocab_size=300) if kind == "bpe" else ByteTokenizer()
    write(random_bundle(tokenizer), tmp_path / "out", "int8")
    reader = genai.Tokenizer(genai.Model(str(tmp_path / "out")))
    ids = [int(token) for token in reader.encode(text)]
    assert ids == tokenizer.encode(text)
    assert reader.decode(np.array(ids, np.int32)) == text


def test_transformers_opens_the_files(random_bundle: RandomBundle, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    bundle = random_bundle(CharTokenizer("abc def\n"), n_kv_heads=1, head_dim=32)
    write(bundle, tmp_path / "out", "float32")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.num_key_value_heads, config.head_dim) == ("llama", 1, 32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("bad fed").input_ids == [bundle.tokenizer.bos_id, *bundle.tokenizer.encode("bad fed")]
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == bundle.tokenizer.eot_id
