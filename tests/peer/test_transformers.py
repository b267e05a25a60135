"""Hugging Face folders in transformers itself: the same numbers, the same text, the same token ids, both ways."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jslm
from jslm.formats import export_model, import_model
from jslm.formats.huggingface.model import read, write
from jslm.formats.llama2c.tokenizer import read_tokenizer
from jslm.infer import LanguageModel, make_request
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer
from tests.tokenizer_layouts import LAYOUTS

torch = pytest.importorskip("torch", reason="torch is not installed")
# Read once, when transformers is imported; not before it is sure to be, or other tests would find the Hub closed.
os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]

CONTEXT = 128
GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0}
BIASES: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
EXPORTED: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"n_kv_heads": 4},
    "mqa_untied": {"n_kv_heads": 1, "tie_embeddings": False},
    "head_dim": {"head_dim": 32, "norm_eps": 1e-3, "rope_theta": 500.0},
    "biases": BIASES,
    "out_bias": {"out_bias": True},
    "geglu": {"activation": "geglu"},
    "qwen2": {"qkv_bias": True},
    "qwen2_head_dim": {"qkv_bias": True, "head_dim": 32},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "qwen3_bias": {"qk_norm": True, "qkv_bias": True, "tie_embeddings": False},
    "arcee": {"activation": "relu2"},
    "arcee_untied": {"activation": "relu2", "tie_embeddings": False, "head_dim": 32, **BIASES},
    "arcee_yarn": {"activation": "relu2", "rope_scaling": {"kind": "yarn", "factor": 4.0}},
    "arcee_relu": {"activation": "relu"},
    "arcee_gelu": {"activation": "gelu"},
    "gpt2": {**GPT2, **BIASES},
    "gpt2_plain": {**GPT2, "norm_bias": False, "tie_embeddings": False, "d_ff": 96},
    "gpt2_relu2": {**GPT2, "activation": "relu2"},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rope_scaling": {"kind": "ntk", "factor": 4.0}, "qk_norm": True},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0}},
    "yarn_betas": {
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3}
    },
    "llama3": {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 32}},
}
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
IMPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_mha_tied": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama_mqa": ("Llama", {"num_key_value_heads": 1, "rope_theta": 500.0}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "llama_linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama_yarn": (
        "Llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "llama_deepseek_yarn": (
        "Llama",
        {
            "rope_scaling": {
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.5,
                "mscale_all_dim": 0.8,
            }
        },
    ),
    "llama_llama3": (
        "Llama",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral_wide_window": ("Mistral", {"sliding_window": CONTEXT, "head_dim": 32}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3_bias": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "arcee": ("Arcee", {}),
    "arcee_tied_biases": (
        "Arcee",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    ),
    "gpt2": ("GPT2", {}),
    "gpt2_untied_exact_gelu": ("GPT2", {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 96}),
}  # fmt: skip


def open_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([ids])).logits[0].float().numpy()
    return found


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens after `ids`, up to the end of the text, which is not among them."""
    with torch.no_grad():
        prompt = torch.tensor([ids])
        found = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count, pad_token_id=0
        )
    tokens = found[0, len(ids) :].tolist()
    end = model.generation_config.eos_token_id
    return tokens[: tokens.index(end)] if end in tokens else tokens


def language_model(bundle: Bundle) -> LanguageModel:
    return LanguageModel(bundle.config, bundle.params, bundle.tokenizer, ends_documents=bundle.ends_documents)


def arrays(params: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_equal_params(one: Any, other: Any) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models_compute_the_same(tmp_path: Path, random_bundle: Callable[..., Bundle], name: str) -> None:
    bundle = random_bundle(ByteTokenizer(), **EXPORTED[name])
    write(bundle, tmp_path / "model", "float32")
    ours, theirs = language_model(bundle), open_model(tmp_path / "model")
    ids = np.random.default_rng(1).integers(0, 256, CONTEXT).tolist()
    np.testing.assert_allclose(logits(theirs, ids), ours.logits(ids)[0], rtol=0, atol=1e-4)
    [result] = ours.generate_results("ab", greedy=True, max_new_tokens=64)
    assert greedy(theirs, [256, *b"ab"], 64) == list(result.tokens)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", IMPORTED)
def test_imported_models_compute_the_same(tmp_path: Path, name: str, sharded: bool) -> None:
    family, options = IMPORTED[name]
    torch.manual_seed(0)
    shape = dict(SHAPE)
    if family == "GPT2":
        shape = {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    config = getattr(transformers, f"{family}Config")(**{**shape, **options}, bos_token_id=256, eos_token_id=256)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            # The initial ones leave attention flat and biases at zero.
            weight += torch.randn_like(weight) * (0.15 if weight.ndim > 1 else 0.05)
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder, max_shard_size="50KB" if sharded else "1GB")
    assert len(list(folder.glob("*.safetensors"))) > 1 if sharded else (folder / "model.safetensors").is_file()
    text = jslm_tokenizer_json(300)
    (folder / "tokenizer.json").write_text(text, "utf-8")

    import_model(folder, tmp_path / "run")
    ours = jslm.load(tmp_path / "run")
    ids = np.random.default_rng(1).integers(0, 300, CONTEXT).tolist()
    np.testing.assert_allclose(logits(theirs, ids), ours.logits(ids)[0], rtol=0, atol=1e-4)
    prompt = ours.tokenizer.encode("ab")
    [result] = ours.generate_results("ab", greedy=True, max_new_tokens=64, document_start=False)
    assert greedy(theirs, prompt, 64) == list(result.tokens)

    export_model(tmp_path / "run", tmp_path / "back", format="hf")
    first, second = read(folder), read(tmp_path / "back")
    assert_equal_params(first.params, second.params)
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert first.config.model == second.config.model
    np.testing.assert_array_equal(logits(open_model(tmp_path / "back"), ids), logits(theirs, ids))


def jslm_tokenizer_json(vocab_size: int) -> str:
    """Byte-level BPE of GPT-2's kind in a file of transformers' making, with 256 as its end of text."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {char: index for index, char in enumerate(alphabet)} | {"<|endoftext|>": 256}
    words |= {f"{left}{right}": 257 + i for i, (left, right) in enumerate(zip("abcdefgh", "bcdefghi", strict=True))}
    library = Library(models.BPE(words, [(left, right) for left, right in zip("abcdefgh", "bcdefghi", strict=True)]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>"])
    assert library.get_vocab_size() < vocab_size
    return str(library.to_str())


def test_pytorch_bin_imports_as_safetensors_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, bos_token_id=256, eos_token_id=256)
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "tokenizer.json").write_text(jslm_tokenizer_json(300), "utf-8")
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (old / name).write_bytes((tmp_path / "new" / name).read_bytes())
    state = theirs.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    torch.save(state, old / "pytorch_model.bin")
    assert_equal_params(read(tmp_path / "new").params, read(old).params)
    (old / "pytorch_model.bin").unlink()
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    names = sorted(half)
    for part, chosen in (("a.bin", names[::2]), ("b.bin", names[1::2])):
        torch.save({name: half[name] for name in chosen}, old / part)
    table = {name: ("a.bin", "b.bin")[index % 2] for index, name in enumerate(names)}
    (old / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {str(table).replace(chr(39), chr(34))}}}')
    rounded = {
        name: array.astype("bfloat16").astype(np.float32)
        for name, array in arrays(read(tmp_path / "new").params).items()
    }
    for name, array in arrays(read(old).params).items():
        np.testing.assert_array_equal(array, rounded[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_trained_runs_write_the_same(tmp_path: Path, trained: Any, strings: list[str], kind: str) -> None:
    bundle, _ = trained(kind)
    export_model(bundle.config.run_dir, tmp_path / "model", format="hf", checkpoint="latest")
    model = open_model(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = jslm.load(bundle.config.run_dir, checkpoint="latest")
    for prompt in ("", "Once upon a time", "the dog "):
        [result] = ours.generate_results(prompt, greedy=True, max_new_tokens=64)
        ids = tokenizer(prompt)["input_ids"]
        found = greedy(model, ids, 64)
        assert found == list(result.tokens)
        assert tokenizer.decode(found) == result.text
        assert result.tokens or not prompt
    for text in strings:
        assert tokenizer.encode(text, add_special_tokens=False) == ours.tokenizer.encode(text, allow_special=True)
    # The defaults of generation are the run's.
    assert model.generation_config.max_new_tokens == bundle.config.sample.max_new_tokens


@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "gpt2"])
def test_the_same_ids(tmp_path: Path, random_bundle: Callable[..., Bundle], strings: list[str], kind: str) -> None:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": lambda: ByteTokenizer(["<|user|>"]),
        # Without U+FFFD in the alphabet an unknown character decodes as that, in both.
        "char": lambda: CharTokenizer(set("".join(strings[::2])) - {"\N{REPLACEMENT CHARACTER}"}, ["<|user|>"]),
        "bpe": lambda: BpeTokenizer.train(strings[:300], 1024, ["<|user|>"]),
        "gpt2": lambda: Gpt2Tokenizer(["<|user|>"]),
    }
    tokenizer = makers[kind]()
    write(random_bundle(tokenizer, n_layers=1), tmp_path / "model", "bfloat16")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eot_id)
    assert len(theirs) == tokenizer.vocab_size
    for text in ["<|user|>hi<|endoftext|>", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 never seen", *strings]:
        ids = tokenizer.encode(text, allow_special=True)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs(text)["input_ids"] == [tokenizer.bos_id, *ids]
        assert theirs.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("ends_documents", [True, False])
@pytest.mark.parametrize("name", [*LAYOUTS, "byte", "sentencepiece"])
def test_prompts_are_those_of_jslm(
    tmp_path: Path,
    random_bundle: Callable[..., Bundle],
    strings: list[str],
    assets: Path,
    name: str,
    ends_documents: bool,
) -> None:
    """What goes before a text and behind it, spaces and normalisation, by all that the folder says."""
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": lambda: ByteTokenizer(["<|user|>"]),
        "sentencepiece": lambda: read_tokenizer(assets / "checkpoints" / "stories260K" / "tok512.bin"),
        **{layout: lambda make=make: make().tokenizer() for layout, make in LAYOUTS.items()},  # type: ignore[misc]
    }
    tokenizer = makers[name]()
    bundle = replace(random_bundle(tokenizer, n_layers=1, context_length=1024), ends_documents=ends_documents)
    write(bundle, tmp_path / "model", "bfloat16")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = LanguageModel(bundle.config, bundle.params, tokenizer, ends_documents=ends_documents)
    options = make_request(bundle.config.sample)
    starts = ends_documents and tokenizer.adds_bos
    for text in strings[1:200]:
        # In jslm's kind no space goes behind a special token, and U+2581 is no space.
        if name == "sentencepiece" and any(part in text for part in ("\u2581", "<s>", "</s>")):
            continue
        # There the spelling of a special token is the token.
        ids = tokenizer.encode(text, allow_special=True)
        assert theirs(text)["input_ids"] == [tokenizer.bos_id] * starts + ids, text
        # A prompt is read as training text is (CRLF as LF), which no file can say.
        if ids == tokenizer.encode(text) and ids and ours.as_read(text) == text:
            assert theirs(text)["input_ids"] == ours.row(text, 0, options).ids, text
    again = read(tmp_path / "model").tokenizer
    assert (again.adds_bos, again.eot_id, again.bos_id) == (starts, tokenizer.eot_id, tokenizer.bos_id)
    assert again.named_tokens.items() >= tokenizer.named_tokens.items()
    named = {key: getattr(theirs, key) for key in ("bos_token", "eos_token", "unk_token")}
    wanted = {"unk_token": "<unk>"} if name == "sentencepiece" else {}
    assert {key: value for key, value in named.items() if value} == tokenizer.named_tokens | wanted


@pytest.mark.parametrize("name", ["hf_tiny_gpt2", "hf_tiny_random_llama"])
def test_real_folders(tmp_path: Path, assets: Path, strings: list[str], name: str) -> None:
    folder = assets / "checkpoints" / name
    import_model(folder, tmp_path / "run")
    ours, theirs = jslm.load(tmp_path / "run"), open_model(folder)
    vocab = ours.tokenizer.vocab_size
    ids = np.random.default_rng(1).integers(0, vocab, 100).tolist()
    np.testing.assert_allclose(logits(theirs, ids), ours.logits(ids)[0], rtol=0, atol=1e-4)
    # What the file says. From version 5 on, AutoTokenizer builds Llama's tokenizer anew by its class and gives a text
    # with spaces in front other ids than the file, SentencePiece and version 4 do.
    file = transformers.PreTrainedTokenizerFast if "llama" in name else transformers.AutoTokenizer
    reference = file.from_pretrained(folder)
    for text in strings:
        assert ours.tokenizer.encode(text, allow_special=True) == reference.encode(text, add_special_tokens=False), text
    export_model(tmp_path / "run", tmp_path / "back", format="hf")
    ours_again, theirs_again = read(tmp_path / "back"), open_model(tmp_path / "back")
    assert_equal_params(read(folder).params, ours_again.params)
    assert ours_again.tokenizer.fingerprint == ours.tokenizer.fingerprint
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, theirs_again.state_dict()[key]), key
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in strings[:200]:
        assert again.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)
