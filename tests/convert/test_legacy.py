"""Checkpoints of nanoGPT, lilLM and slms, against their own computation written out in NumPy."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers

from jslm.errors import JslmError
from jslm.formats.checkpoints import lillm, nanogpt, slms
from jslm.formats.pickles.reader import read_torch_file
from jslm.model import apply_decoder, logits_from_hidden, param_shapes
from jslm.runs.bundle import Bundle

Save = Callable[..., Path]
State = dict[str, np.ndarray]

D, HEADS, LAYERS, CONTEXT = 24, 4, 2, 16


def logits_of(bundle: Bundle, ids: Any) -> np.ndarray:
    model = bundle.config.model
    shapes = jax.tree.map(lambda leaf: leaf.shape, param_shapes(model))
    assert jax.tree.map(np.shape, bundle.params) == shapes
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(bundle.params))
    params = jax.tree.map(jnp.asarray, bundle.params)
    hidden = apply_decoder(params, jnp.asarray(ids, jnp.int32), model)
    return np.asarray(logits_from_hidden(params, hidden, model))


def fresh(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    return {name: array + ("norm" in name or "ln" in name) * np.float32(1) for name, array in arrays.items()}


def softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """One head, `[length, width]`, each position seeing those up to itself."""
    scores = q @ k.T * scale
    scores[np.triu_indices(len(q), 1)] = -np.inf
    return softmax(scores) @ v


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray | float) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def write_tokenizer(folder: Path, size: int, special: tuple[str, ...]) -> None:
    vocabulary = {name: index for index, name in enumerate(special)}
    for index in range(size - len(special)):
        vocabulary[f"▁{index}"] = len(vocabulary)
    library = LibraryTokenizer(models.BPE(vocabulary, [], unk_token=special[0]))
    library.add_special_tokens(list(special))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.save(str(folder / "tokenizer.json"))


def gpt_state(rows: int, bias: bool) -> State:
    linears = {"attn.c_attn": (3 * D, D), "attn.c_proj": (D, D), "mlp.c_fc": (4 * D, D), "mlp.c_proj": (D, 4 * D)}
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, D), "transformer.wpe.weight": (CONTEXT, D)}
    for index in range(LAYERS):
        prefix = f"transformer.h.{index}"
        for norm in ("ln_1", "ln_2"):
            shapes[f"{prefix}.{norm}.weight"] = (D,)
            shapes |= {f"{prefix}.{norm}.bias": (D,)} if bias else {}
        for name, shape in linears.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes |= {f"{prefix}.{name}.bias": shape[:1]} if bias else {}
    shapes["transformer.ln_f.weight"] = (D,)
    shapes |= {"transformer.ln_f.bias": (D,)} if bias else {}
    state = fresh(shapes)
    return state | {"lm_head.weight": state["transformer.wte.weight"]}


def gpt_logits(state: State, ids: list[int], exact: bool = True) -> np.ndarray:
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, state[f"{name}.weight"], state.get(f"{name}.bias", 0.0))

    def gelu(x: np.ndarray) -> np.ndarray:
        if exact:
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = state["transformer.wte.weight"][ids] + state["transformer.wpe.weight"][: len(ids)]
    width = D // HEADS
    for index in range(LAYERS):
        prefix = f"transformer.h.{index}"
        q, k, v = np.split(linear(f"{prefix}.attn.c_attn", norm(f"{prefix}.ln_1", x)), 3, axis=-1)
        parts = [slice(head * width, (head + 1) * width) for head in range(HEADS)]
        heads = [attend(q[:, part], k[:, part], v[:, part], width**-0.5) for part in parts]
        x = x + linear(f"{prefix}.attn.c_proj", np.concatenate(heads, -1))
        x = x + linear(f"{prefix}.mlp.c_proj", gelu(linear(f"{prefix}.mlp.c_fc", norm(f"{prefix}.ln_2", x))))
    return norm("transformer.ln_f", x) @ state["lm_head.weight"].T


def gpt_checkpoint(state: State, prefix: str = "", **changed: Any) -> dict[str, Any]:
    arguments = {
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_embd": D,
        "block_size": CONTEXT,
        "vocab_size": 0,
        "dropout": 0.0,
    }
    return {
        "model": {f"{prefix}{name}": array for name, array in state.items()},
        "optimizer": {"state": {0: {"exp_avg": np.zeros(3, np.float32)}}, "param_groups": []},
        "model_args": arguments | {"bias": "transformer.ln_f.bias" in state} | changed,
        "iter_num": 250,
        "best_val_loss": np.array(1.5, np.float32),
        "config": {"dataset": "shakespeare_char"},
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_nanogpt_computes_the_same(torch_save: Save, bias: bool, prefix: str) -> None:
    state = gpt_state(300, bias)
    mask = {"transformer.h.0.attn.bias": np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.float32))}
    path = torch_save(gpt_checkpoint(state | (mask if not prefix else {}), prefix))
    write_tokenizer(path.parent, 300, ("<|endoftext|>",))
    (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert nanogpt.detect(path)
    bundle = nanogpt.read(path)
    ids = [5, 0, 299, 17, 17, 42]
    np.testing.assert_allclose(logits_of(bundle, [ids])[0], gpt_logits(state, ids), atol=1e-4)
    assert bundle.config.model.tie_embeddings
    assert bundle.config.model.vocab_size == 300
    assert bundle.figures == {"val/loss": 1.5, "steps": 250}
    assert bundle.ends_documents


def test_nanogpt_before_its_setting_for_biases(torch_save: Save) -> None:
    state = gpt_state(300, True)
    checkpoint = gpt_checkpoint(state)
    del checkpoint["model_args"]["bias"]
    path = torch_save(checkpoint)
    write_tokenizer(path.parent, 300, ("<|endoftext|>",))
    (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    bundle = nanogpt.read(path)
    found = logits_of(bundle, [[5, 6, 7]])[0]
    np.testing.assert_allclose(found, gpt_logits(state, [5, 6, 7], exact=False), atol=1e-5)


@pytest.mark.parametrize("rows", [50257, 50304])
def test_nanogpt_with_gpt2s_vocabulary(
    torch_save: Save, assets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rows: int
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
    state = gpt_state(rows, False)
    with caplog.at_level(logging.INFO, "jslm"):
        bundle = nanogpt.read(torch_save(gpt_checkpoint(state)))
    assert "taken to be GPT-2's" in caplog.text
    assert bundle.tokenizer.kind == bundle.config.tokenizer.kind == "gpt2"
    assert bundle.config.model.vocab_size == 50257
    ids = bundle.tokenizer.encode("Once upon a time")
    np.testing.assert_allclose(logits_of(bundle, [ids])[0], gpt_logits(state, ids)[:, :50257], atol=1e-4)


CHARACTERS = "zäa\n É🙂b"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("place", ["meta.pkl", "../data/shakespeare_char/meta.pkl"])
def test_nanogpt_of_characters(torch_save: Save, caplog: pytest.LogCaptureFixture, bias: bool, place: str) -> None:
    state = gpt_state(len(CHARACTERS), bias)
    path = torch_save(gpt_checkpoint(state), "out/ckpt.pt")
    table = {char: index for index, char in enumerate(CHARACTERS)}
    meta = {"vocab_size": len(table), "stoi": table, "itos": {index: char for char, index in table.items()}}
    beside = path.parent / place
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_bytes(pickle.dumps(meta))
    with caplog.at_level(logging.INFO, "jslm"):
        bundle = nanogpt.read(path)
    assert "rows of zeros" in caplog.text
    assert not bundle.ends_documents
    assert bundle.tokenizer.kind == bundle.config.tokenizer.kind == "char"
    assert bundle.tokenizer.vocab_size == len(CHARACTERS) + 2
    text = "baz\n🙂ä É"
    assert bundle.tokenizer.decode(bundle.tokenizer.encode(text)) == text
    found = logits_of(bundle, [bundle.tokenizer.encode(text)])[0]
    expected = gpt_logits(state, [table[char] for char in text])
    columns = [bundle.tokenizer.encode(char)[0] for char in CHARACTERS]
    np.testing.assert_allclose(found[:, columns], expected, atol=1e-4)
    # Probabilities as well: what nanoGPT has not is never sampled.
    np.testing.assert_allclose(softmax(found)[:, columns], softmax(expected), atol=1e-5)
    np.testing.assert_allclose(found[:, :2], -1000.0, atol=0.1)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"stoi": {"a": 0, "b": 1}}, "2 characters, but the checkpoint has 3 rows"),
        ({"stoi": {"a": 0, "b": 1, "c": 1}}, "do not belong together"),
        ({"stoi": {"a": 0, "b": 1, "cd": 2}}, "no table 'stoi' of single characters"),
        ({"stoi": {"a": 0, "b": 1, "\ud800": 2}}, "a lone surrogate"),
        ({"vocab_size": 3}, "no table 'stoi'"),
        ([1], "no table 'stoi'"),
    ],
)
def test_nanogpt_refuses_a_wrong_meta(torch_save: Save, meta: Any, reason: str) -> None:
    path = torch_save(gpt_checkpoint(gpt_state(3, False)))
    path.with_name("meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(JslmError, match=rf"meta\.pkl: .*{reason}"):
        nanogpt.read(path)


def test_nanogpt_meta_runs_nothing(torch_save: Save) -> None:
    path = torch_save(gpt_checkpoint(gpt_state(3, False)))
    path.with_name("meta.pkl").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(JslmError, match=r"meta\.pkl: refused: it calls os\.system"):
        nanogpt.read(path)


def lillm_state(rows: int, kv_heads: int, d_ff: int) -> State:
    width = D // HEADS
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (rows, D), "norm.gain": (D,)}
    for index in range(LAYERS):
        prefix = f"transformer_blocks.{index}"
        shapes |= {f"{prefix}.attn.w{name}.weight": (D, D) for name in "qo"}
        shapes |= {f"{prefix}.attn.w{name}.weight": (kv_heads * width, D) for name in "kv"}
        shapes |= {f"{prefix}.ffn.w1.weight": (d_ff, D), f"{prefix}.ffn.w3.weight": (d_ff, D)}
        shapes |= {
            f"{prefix}.ffn.w2.weight": (D, d_ff),
            f"{prefix}.attn_norm.gain": (D,),
            f"{prefix}.ffn_norm.gain": (D,),
        }
    state = fresh(shapes)
    return state | {"lm_head.weight": state["tok_emb.weight"]}


def lillm_logits(state: State, ids: list[int], kv_heads: int, eps: float) -> np.ndarray:
    width = D // HEADS
    frequencies = 10000.0 ** -(np.arange(0, width, 2) / width)
    turns = np.exp(1j * np.outer(np.arange(len(ids)), frequencies))

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * state[f"{name}.gain"]

    def rotate(x: np.ndarray) -> np.ndarray:
        turned = (x[:, 0::2] + 1j * x[:, 1::2]) * turns
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def project(name: str, x: np.ndarray, heads: int) -> list[np.ndarray]:
        return np.split(x @ state[f"{name}.weight"].T, heads, axis=-1)

    x = state["tok_emb.weight"][ids]
    for index in range(LAYERS):
        prefix = f"transformer_blocks.{index}"
        y = norm(f"{prefix}.attn_norm", x)
        q = project(f"{prefix}.attn.wq", y, HEADS)
        k, v = project(f"{prefix}.attn.wk", y, kv_heads), project(f"{prefix}.attn.wv", y, kv_heads)
        group = HEADS // kv_heads
        heads = [attend(rotate(q[i]), rotate(k[i // group]), v[i // group], width**-0.5) for i in range(HEADS)]
        x = x + np.concatenate(heads, -1) @ state[f"{prefix}.attn.wo.weight"].T
        y = norm(f"{prefix}.ffn_norm", x)
        gate = y @ state[f"{prefix}.ffn.w1.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * (y @ state[f"{prefix}.ffn.w3.weight"].T)
        x = x + hidden @ state[f"{prefix}.ffn.w2.weight"].T
    return norm("norm", x) @ state["lm_head.weight"].T


@pytest.fixture
def lillm_file(torch_save: Save, torch_files: Any) -> Callable[..., tuple[Path, State]]:
    def write(kv_heads: int = 2, **attributes: Any) -> tuple[Path, State]:
        state = lillm_state(90, kv_heads, 40)
        chosen = {
            "d_model": D,
            "max_seq_len": 512,
            "q_heads": HEADS,
            "kv_heads": kv_heads,
            "eps": 1e-6,
            "dropout": 0.1,
        }
        checkpoint = {
            "model": {f"_orig_mod.{name}": array for name, array in state.items()},
            "best_val_loss": 2.25,
            "num_iter": 790,
            "config": torch_files.Object("model.config.Config", chosen | attributes),
        }
        path = torch_save(checkpoint, "best_model.pt")
        write_tokenizer(path.parent, 90, ("<unk>", "<s>", "</s>"))
        return path, state

    return write


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_lillm_computes_the_same(lillm_file: Callable[..., tuple[Path, State]], kv_heads: int) -> None:
    path, state = lillm_file(kv_heads, eps=1e-2)
    assert lillm.detect(path)
    assert not nanogpt.detect(path)
    assert not slms.detect(path)
    bundle = lillm.read(path)
    ids = [5, 0, 89, 17, 17, 42]
    np.testing.assert_allclose(logits_of(bundle, [ids])[0], lillm_logits(state, ids, kv_heads, 1e-2), atol=1e-4)
    assert bundle.config.model.tie_embeddings
    assert bundle.config.model.context_length == 512
    assert bundle.figures == {"val/loss": 2.25, "steps": 790}
    assert bundle.tokenizer.eot_id == 2


def test_lillm_without_its_head(torch_save: Save, lillm_file: Callable[..., tuple[Path, State]]) -> None:
    path, _ = lillm_file()
    whole = lillm.read(path)
    found = read_torch_file(path)
    found["model"] = {name: np.array(array) for name, array in found["model"].items() if "lm_head" not in name}
    found["config"] = found["config"].attributes
    again = lillm.read(torch_save(found, "again.pt"))
    np.testing.assert_array_equal(logits_of(again, [[1, 2]]), logits_of(whole, [[1, 2]]))


@pytest.mark.parametrize("project", ["nanogpt", "lillm"])
def test_a_head_of_its_own_is_kept(
    torch_save: Save, lillm_file: Callable[..., tuple[Path, State]], caplog: pytest.LogCaptureFixture, project: str
) -> None:
    path, state = lillm_file() if project == "lillm" else (torch_save({}), gpt_state(300, False))
    head = np.random.default_rng(5).standard_normal(state["lm_head.weight"].shape, np.float32)
    read = {"nanogpt": nanogpt.read, "lillm": lillm.read}[project]
    if project == "nanogpt":
        checkpoint = gpt_checkpoint(state | {"lm_head.weight": head})
        write_tokenizer(path.parent, 300, ("<|endoftext|>",))
        (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    else:
        checkpoint = read_torch_file(path)
        checkpoint["model"] = {name: np.array(array) for name, array in checkpoint["model"].items()}
        checkpoint["model"]["_orig_mod.lm_head.weight"] = head
        checkpoint["config"] = checkpoint["config"].attributes
    bundle = read(torch_save(checkpoint, path.name))
    assert not bundle.config.model.tie_embeddings
    np.testing.assert_array_equal(bundle.params["head"]["tokens"][: len(head)], head)
    assert "holds a head of other weights: kept" in caplog.text


def test_masks_and_turns_of_another_model_are_refused(
    torch_save: Save, lillm_file: Callable[..., tuple[Path, State]]
) -> None:
    window = np.triu(np.tri(CONTEXT, dtype=np.float32), -2)
    state = gpt_state(300, True)
    path = torch_save(gpt_checkpoint(state | {"transformer.h.0.attn.bias": window.reshape(1, 1, *window.shape)}))
    write_tokenizer(path.parent, 300, ("<|endoftext|>",))
    (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    with pytest.raises(JslmError, match=r"attn\.bias is not a mask of the future"):
        nanogpt.read(path)
    (path.parent / "tokenizer_config.json").unlink()
    path, _ = lillm_file()
    checkpoint = read_torch_file(path)
    checkpoint["config"] = checkpoint["config"].attributes
    weights = {name: np.array(array) for name, array in checkpoint["model"].items()}
    for base in (1e4, 500.0):
        angles = np.outer(np.arange(512), base ** -(np.arange(0, D // HEADS, 2) / (D // HEADS)))
        turns = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
        checkpoint["model"] = weights | {"freq_cis": turns}
        with contextlib.nullcontext() if base == 1e4 else pytest.raises(JslmError, match="rotation of base 10,000"):
            lillm.read(torch_save(checkpoint, path.name))


def test_a_changed_copy_is_refused(lillm_file: Callable[..., tuple[Path, State]], torch_save: Save) -> None:
    path, _ = lillm_file(qk_norm=True, sliding_window=None)
    with pytest.raises(JslmError, match=r"config has qk_norm, which lilLM has not"):
        lillm.read(path)
    path = torch_save(gpt_checkpoint(gpt_state(3, False), use_rmsnorm=True, use_relu=False))
    with pytest.raises(JslmError, match=r"model_args has use_rmsnorm, which nanoGPT has not"):
        nanogpt.read(path)


def slms_state(rows: int) -> State:
    width = D // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding_table.weight": (rows, D),
        "position_embedding_table.weight": (CONTEXT, D),
    }
    for index in range(LAYERS):
        prefix = f"blocks.{index}"
        for head in range(HEADS):
            shapes |= {
                f"{prefix}.sa_heads.heads.{head}.{name}.weight": (width, D) for name in ("key", "query", "value")
            }
            shapes[f"{prefix}.sa_heads.heads.{head}.tril"] = (CONTEXT, CONTEXT)
        for name, (rows_out, columns) in {
            "sa_heads.fc": (D, D),
            "ffwd.net.0": (4 * D, D),
            "ffwd.net.2": (D, 4 * D),
        }.items():
            shapes |= {f"{prefix}.{name}.weight": (rows_out, columns), f"{prefix}.{name}.bias": (rows_out,)}
        shapes |= {f"{prefix}.ln{number}.{part}": (D,) for number in (1, 2) for part in ("weight", "bias")}
    shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,), "lm_head.weight": (rows, D), "lm_head.bias": (rows,)}
    state = fresh(shapes)
    mask = np.tri(CONTEXT, dtype=np.float32)
    return {name: mask if name.endswith(".tril") else array for name, array in state.items()}


def slms_logits(state: State, ids: list[int]) -> np.ndarray:
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = state["token_embedding_table.weight"][ids] + state["position_embedding_table.weight"][: len(ids)]
    for index in range(LAYERS):
        prefix = f"blocks.{index}"
        y = norm(f"{prefix}.ln1", x)
        names = [f"{prefix}.sa_heads.heads.{head}" for head in range(HEADS)]
        heads = [
            attend(linear(f"{name}.query", y), linear(f"{name}.key", y), linear(f"{name}.value", y), D**-0.5)
            for name in names
        ]
        x = x + linear(f"{prefix}.sa_heads.fc", np.concatenate(heads, -1))
        hidden = np.maximum(linear(f"{prefix}.ffwd.net.0", norm(f"{prefix}.ln2", x)), 0)
        x = x + linear(f"{prefix}.ffwd.net.2", hidden)
    return linear("lm_head", norm("ln_f", x))


def test_slms_computes_the_same(torch_save: Save, caplog: pytest.LogCaptureFixture) -> None:
    state = slms_state(70)
    # A channel that the norm switches off.
    state["ln_f.weight"][3] = 0.0
    path = torch_save({"epoch": 2, "model": state, "val_loss": np.array(0.5, np.float32), "hyperparameters": {}})
    write_tokenizer(path.parent, 70, ("<|unknown|>", "<|im_start|>", "<|im_end|>"))
    assert slms.detect(path)
    assert not nanogpt.detect(path)
    assert not lillm.detect(path)
    with caplog.at_level(logging.INFO, "jslm"):
        bundle = slms.read(path)
    assert "bias went into the final norm" in caplog.text
    ids = [5, 0, 69, 17, 17, 42]
    np.testing.assert_allclose(logits_of(bundle, [ids])[0], slms_logits(state, ids), atol=1e-4)
    assert bundle.tokenizer.eot_id == 2
    assert bundle.figures == {"val/loss": 0.5}


READERS = {"nanogpt": nanogpt, "lillm": lillm, "slms": slms}


@pytest.fixture
def files(torch_save: Save, lillm_file: Callable[..., tuple[Path, State]]) -> dict[str, Path]:
    return {
        "lillm": lillm_file()[0],
        "nanogpt": torch_save(gpt_checkpoint(gpt_state(90, True)), "ckpt.pt"),
        "slms": torch_save({"model": slms_state(90)}, "slms.pt"),
    }


@pytest.mark.parametrize("name", READERS)
def test_describe_reads_no_weights(files: dict[str, Path], name: str) -> None:
    found = READERS[name].describe(files[name])
    assert found["n_layers"] == LAYERS
    assert found["d_model"] == D
    assert found["n_heads"] == HEADS
    assert found["vocab_size"] == 90
    assert found["weights"].startswith("float32 in ")
    assert READERS[name].FORMAT.name == name


def damage(path: Path, torch_save: Save, torch_files: Any, change: Callable[[dict[str, Any]], None]) -> Path:
    found = read_torch_file(path)
    found["model"] = {name: np.array(array) for name, array in found["model"].items()}
    found.pop("optimizer", None)
    if hasattr(found.get("config"), "attributes"):
        found["config"] = torch_files.Object(found["config"].name, found["config"].attributes)
    change(found["model"])
    return torch_save(found, "damaged.pt")


@pytest.mark.parametrize("name", READERS)
def test_every_tensor_counts(files: dict[str, Path], name: str, torch_save: Save, torch_files: Any) -> None:
    """Missing, extra, of another shape or type: one line that names the file."""
    state = read_torch_file(files[name])["model"]
    last = [key for key in state if f".{LAYERS - 1}." in key and "tril" not in key][-1]

    def drop(found: dict[str, Any]) -> None:
        del found[last]

    def add(found: dict[str, Any]) -> None:
        found["extra.weight"] = np.zeros(3, np.float32)

    def reshape(found: dict[str, Any]) -> None:
        found[last] = np.zeros((7, 5), np.float32)

    def integers(found: dict[str, Any]) -> None:
        found[last] = found[last].astype(np.int64)

    for change, reason in (
        (drop, "no tensor"),
        (add, "extra.weight"),
        (reshape, r"\[7, 5\]|expected"),
        (integers, "is of type int64"),
    ):
        path = damage(files[name], torch_save, torch_files, change)
        if not (path.parent / "tokenizer.json").is_file():
            write_tokenizer(path.parent, 90, ("<unk>", "<s>", "</s>"))
        (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
        with pytest.raises(JslmError, match=reason) as caught:
            READERS[name].read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_no_tokenizer_beside(files: dict[str, Path], name: str) -> None:
    (files[name].parent / "tokenizer.json").unlink()
    with pytest.raises(JslmError, match=r"no tokenizer beside it"):
        READERS[name].read(files[name])


@pytest.mark.parametrize("changed", [{"n_head": 5}, {"n_head": "4"}, {"n_head": -1}, {"n_head": 2**70}])
def test_impossible_settings(torch_save: Save, changed: dict[str, Any]) -> None:
    path = torch_save(gpt_checkpoint(gpt_state(3, False), **changed))
    with pytest.raises(JslmError, match=r"ckpt\.pt"):
        nanogpt.describe(path)


def test_half_precision(torch_save: Save, lillm_file: Callable[..., tuple[Path, State]]) -> None:
    path, state = lillm_file()
    found = read_torch_file(path)
    found["model"] = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
    found["config"] = found["config"].attributes
    bundle = lillm.read(torch_save(found, "half.pt"))
    expected = state["tok_emb.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bundle.params["embed"]["tokens"][:90], expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_tokenizer(folder, 5, ("<unk>", "<s>", "</s>"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return folder


strange: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1, 3, 2**40, 2**70, 1.5, math.nan, "4", [], {}, np.zeros(3, np.float32)]
)
shapes = st.lists(st.sampled_from([0, 1, 2, D, 3 * D, 97]), max_size=3).map(tuple)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_strange_checkpoints_load_or_say_so(folder: Path, torch_files: Any, name: str, data: st.DataObject) -> None:
    """Settings of any kind, tensors of any shape and number: a model, or one line."""
    states = {
        "nanogpt": lambda: gpt_state(5, True),
        "lillm": lambda: lillm_state(5, 2, 40),
        "slms": lambda: slms_state(5),
    }
    state: dict[str, Any] = states[name]()
    arguments: dict[str, Any] = {"max_seq_len": 64, "q_heads": HEADS, "kv_heads": 2, "eps": 1e-6, "n_head": HEADS}
    for _ in range(data.draw(st.integers(0, 2))):
        key = data.draw(st.sampled_from([*state, "blocks.7.x", "transformer.h.²", "transformer_blocks.99999999999.y"]))
        state[key] = data.draw(strange | shapes.map(lambda shape: np.zeros(shape, np.float32)))
    for _ in range(data.draw(st.integers(0, 2))):
        arguments[data.draw(st.sampled_from([*arguments, "other"]))] = data.draw(strange)
    key = {"nanogpt": "model_args", "lillm": "config", "slms": "hyperparameters"}[name]
    checkpoint = {"model": state, key: data.draw(st.just(arguments) | strange), "val_loss": data.draw(strange)}
    path = folder / f"{name}.pt"
    path.unlink(missing_ok=True)
    path.write_bytes(torch_files.zip(checkpoint))
    for action in (READERS[name].describe, READERS[name].read):
        message = str(folder)
        try:
            action(path)
        except JslmError as error:
            message = str(error)
        assert str(folder) in message
        assert "\n" not in message


def test_detect_never_raises(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    (tmp_path / "text.txt").write_text("code")
    # So that reading says what is wrong.
    assert nanogpt.detect(tmp_path / "bad.pt")
    with pytest.raises(JslmError, match=r"refused: it calls os\.system"):
        nanogpt.read(tmp_path / "bad.pt")
    for reader in READERS.values():
        assert not reader.detect(tmp_path / "text.txt")
        assert not reader.detect(tmp_path)
        assert not reader.detect(tmp_path / "none")
