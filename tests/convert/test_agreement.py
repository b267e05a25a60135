"""What one format says of tokens, prompts and sampling, every other says too, in its own words and when read again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from jslm.config import config_from_dict
from jslm.formats import load_model
from jslm.formats.formats import format_named
from jslm.infer import LanguageModel, make_request
from jslm.infer.chat import Chat
from jslm.model import init_params
from jslm.prompts.chat_templates import BUILT_IN
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from tests.tokenizer_layouts import LAYOUTS

TEXT = "The cat didn't like the rain in 2024!\n"
TURNS = [{"role": "user", "content": "The cat?"}, {"role": "assistant", "content": "Yes."}]
MARKS = ["<|im_start|>", "<|im_end|>"]
SAMPLING: dict[str, dict[str, Any]] = {
    "default": {},
    "narrow": {
        "temperature": 0.65, "top_k": 17, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.15, "max_new_tokens": 33,
    },
    "greedy": {"temperature": 0.0, "max_new_tokens": 7},
}  # fmt: skip
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte": lambda: ByteTokenizer(MARKS),
    "char": lambda: CharTokenizer(TEXT + "?Yes.userassistant:", MARKS),
    "bpe": lambda: BpeTokenizer.train([TEXT] * 4, 300, MARKS),
    "llama2": lambda: LAYOUTS["llama2"]().tokenizer(),
    "llama3": lambda: LAYOUTS["llama3"]().tokenizer(),
    "qwen": lambda: LAYOUTS["qwen"]().tokenizer(),
}
FORMATS = ("hf", "gguf", "safetensors")


def make_bundle(tokenizer: Tokenizer, template: str = "", *, ends: bool = True, **sample: Any) -> Bundle:
    shape = {"n_layers": 1, "d_model": 32, "n_heads": 2, "context_length": 128, "dtype": "float32"}
    values = {"model": {**shape, "vocab_size": tokenizer.vocab_size}, "sample": sample}
    config = config_from_dict(values, "test")
    params = init_params(config.model, jax.random.key(0))
    return Bundle(config, params, tokenizer, ends, chat_template=template)


def write(bundle: Bundle, folder: Path, format: str) -> Path:
    if format == "gguf":
        pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")
    target = folder / {
        "hf": "model", "gguf": "model.gguf", "safetensors": "model.safetensors", "onnx": "onnx-model",
    }[format]  # fmt: skip
    chosen = format_named(format)
    assert chosen.write is not None
    chosen.write(bundle, target, "float32")
    return target


def says_hf(path: Path) -> dict[str, Any]:
    """In the words of transformers, as jslm's."""
    settings, generation, tokens = (
        json.loads((path / name).read_text("utf-8"))
        for name in ("tokenizer_config.json", "generation_config.json", "tokenizer.json")
    )
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]} | tokens["model"]["vocab"]
    ends = generation["eos_token_id"]
    template = path / "chat_template.jinja"
    sampling = {"temperature": generation.get("temperature", 0.0) if generation["do_sample"] else 0.0}
    for key, default in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
        sampling[key] = generation.get(key, default)
    return {
        "eos": ids[settings["eos_token"]],
        "ends": ends if isinstance(ends, list) else [ends],
        "bos": ids[settings["bos_token"]] if settings["bos_token"] else ids[settings["eos_token"]],
        "add_bos": settings["add_bos_token"],
        "template": template.read_text("utf-8") if template.is_file() else "",
        "sampling": sampling | {"max_new_tokens": generation["max_new_tokens"]},
    }


def says_gguf(path: Path) -> dict[str, Any]:
    """In the words of llama.cpp, as jslm's."""
    import gguf

    keys = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    names = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    sampling = {ours: keys[f"general.sampling.{theirs}"] for ours, theirs in names.items()}
    sampling["repetition_penalty"] = keys["general.sampling.penalty_repeat"]
    ends = [keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]]
    return {
        "eos": ends[0],
        "ends": list(dict.fromkeys(ends)),
        "bos": keys["tokenizer.ggml.bos_token_id"],
        "add_bos": keys["tokenizer.ggml.add_bos_token"],
        "template": keys.get("tokenizer.chat_template", ""),
        "sampling": sampling | {"max_new_tokens": keys["jslm.sample.max_new_tokens"]},
    }


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("template", ["", "chatml", "plain"])
def test_files_say_the_same(tmp_path: Path, template: str, sampling: str) -> None:
    tokenizer = BpeTokenizer.train([TEXT] * 4, 300, MARKS)
    bundle = make_bundle(tokenizer, BUILT_IN.get(template, ""), **SAMPLING[sampling])
    one = says_hf(write(bundle, tmp_path, "hf"))
    other = says_gguf(write(bundle, tmp_path, "gguf"))
    greedy = bundle.config.sample.temperature == 0
    for key in list(one["sampling"]):
        wanted = getattr(bundle.config.sample, key)
        # A greedy choice asks for none of the others, and transformers warns of them.
        if not greedy or key in ("temperature", "max_new_tokens", "repetition_penalty"):
            assert one["sampling"].pop(key) == pytest.approx(other["sampling"].pop(key)) == pytest.approx(wanted), key
    one.pop("sampling"), other.pop("sampling")
    assert one == other
    end = tokenizer.special_tokens["<|im_end|>"]
    assert one["ends"] == [0, end] if template == "chatml" else [0]
    assert one["template"] == BUILT_IN.get(template, "")


@pytest.mark.parametrize("template", ["", "chatml"])
def test_an_onnx_folder_says_what_hugging_faces_says(tmp_path: Path, template: str) -> None:
    pytest.importorskip("onnx", reason="the package onnx (extra `onnx`) is not installed")
    tokenizer = BpeTokenizer.train([TEXT] * 4, 300, MARKS)
    bundle = make_bundle(tokenizer, BUILT_IN.get(template, ""), **SAMPLING["narrow"])
    found = says_hf(write(bundle, tmp_path, "onnx"))
    assert found == says_hf(write(bundle, tmp_path, "hf"))
    settings = json.loads((tmp_path / "onnx-model" / "genai_config.json").read_text("utf-8"))
    assert settings["model"]["eos_token_id"] == (found["ends"] if template else tokenizer.eot_id)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_read_again_all_do_the_same(tmp_path: Path, kind: str, ends: bool) -> None:
    tokenizer = TOKENIZERS[kind]()
    chats = "<|im_start|>" in tokenizer.special_tokens
    bundle = make_bundle(tokenizer, BUILT_IN["chatml"] if chats else "", ends=ends, **SAMPLING["narrow"])
    found: dict[str, dict[str, Any]] = {}
    # With what a text begins that follows nothing, no file of others can say where no token begins it.
    for format in ("", *FORMATS):
        again = load_model(write(bundle, tmp_path, format)) if format else bundle
        model = LanguageModel(
            again.config,
            again.params,
            again.tokenizer,
            ends_documents=again.ends_documents,
            chat_template=again.chat_template,
        )
        options = make_request(again.config.sample)
        chat = Chat(model) if chats else None
        found[format] = {
            "bos": again.tokenizer.bos_id,
            "eos": again.tokenizer.eot_id,
            "special": again.tokenizer.special_tokens,
            "prompts": [model.row(text, 0, options).ids for text in (*([""] if ends else []), "The cat", " a  b\n")],
            "options": options,
            "template": again.chat_template,
            "chat": chat.prompt_ids(TURNS) if chat else None,
            "stops": chat.stops if chat else None,
        }
    if kind == "char":
        # What stands for unknown characters is no special token in a tokenizer.json.
        found["hf"]["special"]["<|unk|>"] = 1
    for format in FORMATS:
        assert found[format] == found[""], format


def test_a_template_that_does_not_run_ends_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(ByteTokenizer(MARKS), "{% for %}")
    assert says_hf(write(bundle, tmp_path, "hf"))["ends"] == [256]


def test_what_llama2c_has_no_place_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from jslm.formats.llama2c.model import read
    from jslm.formats.llama2c.model import write as write_llama2c
    from jslm.tokenizer import SentencePieceTokenizer

    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), " ", "a", " a"]
    tokenizer = SentencePieceTokenizer(pieces, [0.0] * 259 + [-1.0, -2.0, -0.5], end_of_text="<s>")
    with caplog.at_level(logging.INFO, logger="jslm"):
        write_llama2c(make_bundle(tokenizer), tmp_path / "a.bin", "float32")
        assert not caplog.records
        write_llama2c(make_bundle(tokenizer, "{{ x }}", top_k=5), tmp_path / "a.bin", "float32")
    assert "the file has no place for its chat template and its sampling settings" in caplog.text
    again = read(tmp_path / "a.bin")
    assert (again.tokenizer.bos_id, again.tokenizer.eot_id, again.ends_documents) == (1, 1, True)
