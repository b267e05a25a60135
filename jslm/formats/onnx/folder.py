"""The files around the graphs: what transformers.js, optimum and onnxruntime-genai look for beside a model.

`config.json`, `generation_config.json`: Hugging Face's. `genai_config.json`: onnxruntime-genai's. `jslm.json`: all that
jslm knows of the model beside its weights, which its own side reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.formats.ends import end_tokens
from jslm.formats.huggingface.model import one_or_more, write_beside
from jslm.formats.huggingface.tokenizer import write_json
from jslm.formats.onnx.file import AGAIN
from jslm.formats.tokenizers import read_json
from jslm.prompts.chat import model_template
from jslm.runs.bundle import Bundle
from jslm.tokenizer import Tokenizer, tokenizer_from_json

NAME = "jslm.json"
VERSION = 1
# By the kind of its matrices, where transformers.js looks for a file: its dtypes fp32, fp16 and q8.
FILES = {
    "float32": "onnx/model.onnx",
    "float16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int7": "onnx/model_quantized.onnx",
}
_JS_TYPES = {"float32": "fp32", "float16": "fp16", "int8": "q8", "int7": "q8"}


def is_onnx(path: Path) -> bool:
    """Whether `path` is an `.onnx` file, or a folder that jslm wrote with some."""
    return (path.suffix == ".onnx" and path.is_file()) or (path / NAME).is_file()


def write_files(
    bundle: Bundle, folder: Path, kinds: Mapping[str, Mapping[str, Any]], folded: Mapping[str, str]
) -> None:
    """Writes everything but graphs and model card. `kinds`: of the graphs there are, the one to open first in front,
    and what is known of each. `folded`: the conditions built in.

    Raises JslmError where no `tokenizer.json` gives the model's ids.
    """
    config, tokenizer = bundle.config, bundle.tokenizer
    write_beside(bundle, folder, _config(bundle, list(kinds)))
    write_json(folder / "genai_config.json", _genai(bundle, next(iter(kinds))))
    fields = {
        "version": VERSION,
        "graphs": {FILES[kind]: {"kind": kind, **facts} for kind, facts in kinds.items()},
        "conditions": dict(folded),
        "ends_documents": bundle.ends_documents,
        "figures": dict(bundle.figures),
        "config": config.model_dump(mode="json"),
        "tokenizer": json.loads(tokenizer.to_json()),
    }
    (folder / NAME).write_text(json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


@dataclass(frozen=True)
class OnnxModel:
    """What a folder says of its model: all that `Bundle` has but the weights.

    `graphs`: the files there are and what is known of each (`kind` first of all), the one to open first in front.
    `folded`: the label that is built in for a condition, "" for none.
    """

    config: Config
    tokenizer: Tokenizer
    ends_documents: bool
    figures: Mapping[str, Any]
    chat_template: str
    graphs: Mapping[str, Mapping[str, Any]]
    folded: Mapping[str, str]


def read_folder(path: Path) -> OnnxModel:
    """The model that the folder `path` holds, its graphs aside. Raises JslmError where `jslm.json` is bad."""
    where = path / NAME
    fields = read_json(where)
    if fields.get("version") != VERSION:
        raise JslmError(f"{where}: version {fields.get('version')!r}, and this jslm reads {VERSION}; {AGAIN}")
    kinds = {"config": dict, "tokenizer": dict, "figures": dict, "graphs": dict, "conditions": dict}
    for key, kind in {**kinds, "ends_documents": bool}.items():
        if not isinstance(fields.get(key), kind):
            raise JslmError(f"{where}: no {key}; the file is damaged: {AGAIN}")
    graphs = fields["graphs"]
    if not graphs or any(FILES.get(_kind(facts)) != file for file, facts in graphs.items()):
        raise JslmError(f"{where}: its graphs are none that jslm writes; the file is damaged: {AGAIN}")
    config = config_from_dict(fields["config"], f"{where}: config")
    tokenizer = tokenizer_from_json(json.dumps(fields["tokenizer"]), where=f"{where}: tokenizer")
    if tokenizer.vocab_size != config.model.vocab_size:
        raise JslmError(f"{where}: its tokenizer is not the model's: {tokenizer.vocab_size:,} tokens; {AGAIN}")
    template = model_template(path)
    folded = {str(name): str(label) for name, label in fields["conditions"].items()}
    return OnnxModel(config, tokenizer, fields["ends_documents"], fields["figures"], template, graphs, folded)


def graph_of(path: Path, kind: str = "") -> Path:
    """The `.onnx` file `path`, or in a folder the one of that `kind`, by default the first. Raises JslmError."""
    if not path.exists():
        raise JslmError(f"{path}: no such file or folder")
    if path.is_file():
        return path
    graphs = read_json(path / NAME).get("graphs")
    listed = {_kind(facts): file for file, facts in graphs.items()} if isinstance(graphs, dict) else {}
    found = {name: path / file for name, file in listed.items() if FILES.get(name) == file}
    if not found or (kind and kind not in found):
        asked = f"kind {kind}" if kind else "graph"
        raise JslmError(f"{path}: no {asked}; {NAME} lists {', '.join(found) or 'none'}; {AGAIN}")
    graph = found[kind] if kind else next(iter(found.values()))
    if not graph.is_file():
        raise JslmError(f"{graph}: missing, though {NAME} names it; {AGAIN}")
    return graph


def _kind(facts: Any) -> str:
    return str(facts.get("kind")) if isinstance(facts, dict) else ""


def _config(bundle: Bundle, kinds: list[str]) -> dict[str, Any]:
    """Sizes of the cache, for whoever feeds the graph: programs ask for a class, and of Llama's they read no more."""
    model = bundle.config.model
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.hidden_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.dim_per_head,
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "use_cache": True,
    }
    if "float32" not in kinds or len(kinds) == 1:
        # What is loaded where nobody says which.
        fields["transformers.js_config"] = {"dtype": _JS_TYPES[kinds[0]]}
    return fields


def _genai(bundle: Bundle, kind: str) -> dict[str, Any]:
    model, sample, tokenizer = bundle.config.model, bundle.config.sample, bundle.tokenizer
    inputs = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        **({} if model.position == "none" else {"position_ids": "position_ids"}),
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    outputs = {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": FILES[kind],
        "head_size": model.dim_per_head,
        "hidden_size": model.d_model,
        "inputs": inputs,
        "outputs": outputs,
        "num_attention_heads": model.n_heads,
        "num_hidden_layers": model.n_layers,
        "num_key_value_heads": model.kv_heads,
    }
    return {
        "model": {
            "type": "llama",
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": one_or_more(end_tokens(bundle)),
            "pad_token_id": tokenizer.eot_id,
            "context_length": model.context_length,
            "vocab_size": model.vocab_size,
            "decoder": decoder,
        },
        "search": {
            "do_sample": sample.temperature > 0,
            "temperature": sample.temperature or 1.0,
            "top_k": sample.top_k,
            "top_p": sample.top_p,
            "repetition_penalty": sample.repetition_penalty,
            "max_length": model.context_length,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            # The graph's cache grows.
            "past_present_share_buffer": False,
        },
    }
