"""GGUF, llama.cpp's one file of weights, hyperparameters and tokenizer: written here, and described;
`reading.py` reads it.

Written by llama.cpp's own library (`gguf`, in the extra `convert`). Layout: "GGUF" in the documentation of ggml.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.extras import load_extra
from jslm.files import whole_file
from jslm.formats.ends import end_tokens
from jslm.formats.gguf.general import write_general
from jslm.formats.gguf.header import MAGIC, ArrayLength, Header, read_header
from jslm.formats.gguf.quantiser import TYPES, check_quantiser, quantise
from jslm.formats.gguf.reading import read
from jslm.formats.gguf.sampling import write_sampling
from jslm.formats.gguf.vocabulary import NO_BOS_TEMPLATE, write_vocabulary
from jslm.formats.gguf.weights import choose_architecture, model_tensors, write_hyperparameters
from jslm.formats.weights import check_weights
from jslm.runs.bundle import Bundle, Format, check_vocabulary

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

_log = logging.getLogger("jslm")
_BLOCK = 32


def detect(path: Path) -> bool:
    """Whether `path` is a file that begins as GGUF does."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def describe(path: Path) -> dict[str, Any]:
    """What a GGUF file says it is: architecture, parameters, types, tokenizer. Raises JslmError for a bad file."""
    header = read_header(path)
    keys = header.metadata
    architecture = keys.get("general.architecture")
    if not isinstance(architecture, str):
        architecture = "unknown"
    weights = ", ".join(f"{kind} {count:,}" for kind, count in header.types.most_common())
    named = {
        "name": "general.name",
        "description": "general.description",
        "n_layers": f"{architecture}.block_count",
        "d_model": f"{architecture}.embedding_length",
        "n_heads": f"{architecture}.attention.head_count",
        "n_kv_heads": f"{architecture}.attention.head_count_kv",
        "d_ff": f"{architecture}.feed_forward_length",
        "context_length": f"{architecture}.context_length",
    }
    return {
        "format": f"GGUF version {header.version}",
        "architecture": architecture,
        "parameters": header.n_parameters,
        "weights": f"{weights or 'none'} in {header.n_tensors:,} tensors",
        **{name: keys[key] for name, key in named.items() if isinstance(keys.get(key), str | int | float)},
        "tokenizer": _describe_tokenizer(header),
    }


def write(bundle: Bundle, path: Path, dtype: str) -> None:
    """Writes `bundle` to the file `path`: the whole file, or nothing and what was there before.

    `dtype` is that of the matrices: float32, float16, bfloat16, q8_0 (blocks of 32 weights of 8 bits with a float16
    scale), or q4_k_m and q6_k by llama.cpp's own quantiser; vectors stay float32. Raises JslmError that lists every
    option llama.cpp has nothing for, and where a weight is too large for `dtype`, the library or the quantiser is
    missing, or the file cannot be written.
    """
    if dtype not in TYPES:
        return _write(bundle, path, dtype, path.stem)
    check_quantiser(dtype)
    with whole_file(path) as temporary:
        whole = temporary.with_name(f"{temporary.name}.float32")
        try:
            _write(bundle, whole, "float32", path.stem)
            told = quantise(whole, temporary, dtype)
        finally:
            whole.unlink(missing_ok=True)
    if told:
        _log.info("%s: %s", path, told)
    return None


def _write(bundle: Bundle, path: Path, dtype: str, name: str) -> None:
    """The file in a type that jslm writes itself; `name` is the model's where it came from nowhere."""
    gguf = load_extra("gguf", "convert", "writing GGUF")
    wanted = {
        "float32": gguf.GGMLQuantizationType.F32,
        "float16": gguf.GGMLQuantizationType.F16,
        "bfloat16": gguf.GGMLQuantizationType.BF16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }[dtype]
    model = bundle.config.model
    check_vocabulary(bundle.config, bundle.tokenizer)
    architecture = choose_architecture(model)
    writer = gguf.GGUFWriter(None, architecture)
    write_general(writer, bundle, name, dtype)
    write_sampling(writer, bundle.config.sample)
    write_hyperparameters(writer, model, architecture)
    turn_end = end_tokens(bundle)[-1]
    write_vocabulary(writer, bundle.tokenizer, starts_documents=bundle.ends_documents, turn_end=turn_end)
    if bundle.chat_template:
        has_bos = "bos_token" in bundle.tokenizer.named_tokens or "bos_token" not in bundle.chat_template
        writer.add_chat_template(("" if has_bos else NO_BOS_TEMPLATE) + bundle.chat_template)
    # Views of the parameters, mostly: each is encoded when its turn to be written comes.
    tensors = [
        (name, array, _type_for(name, array.shape, wanted))
        for name, array in model_tensors(bundle.params, model, architecture)
    ]
    for name, array, kind in tensors:
        check_weights(name, array, {"F16": "float16", "Q8_0": "q8_0"}.get(kind.name, ""))
        _add_info(writer, name, array.shape, kind)
    with whole_file(path) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for _, array, kind in tensors:
                writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(array), kind))
        finally:
            writer.close()
    kept = sorted({array.shape[-1] for _, array, kind in tensors if dtype == "q8_0" and kind.name == "F16"})
    if kept:
        widths = ", ".join(map(str, kept))
        _log.info("%s: matrices with rows of %s are float16: q8_0 takes rows of a multiple of 32", path, widths)


def _type_for(name: str, shape: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """Vectors stay float32, as llama.cpp's own tools leave them, and so do positions, which are added."""
    if len(shape) < 2 or name == "position_embd.weight":
        return type(wanted).F32
    if wanted.name == "Q8_0" and shape[-1] % _BLOCK:
        return type(wanted).F16
    return wanted


def _add_info(writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> None:
    bytes_shape = load_extra("gguf", "convert", "writing GGUF").quant_shape_to_byte_shape(shape, kind)
    # The library takes a shape in bytes where the elements are bytes.
    writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), math.prod(bytes_shape), raw_dtype=kind)


def _describe_tokenizer(header: Header) -> str:
    keys = header.metadata
    tokens = keys.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, ArrayLength):
        return "none"
    names = [keys[f"tokenizer.ggml.{part}"] for part in ("model", "pre") if f"tokenizer.ggml.{part}" in keys]
    return f"{', '.join(map(str, names)) or 'unnamed'}: {tokens.length:,} tokens"


FORMAT = Format(
    name="gguf",
    summary="llama.cpp's file, for llama.cpp and what is built on it",
    detect=detect,
    describe=describe,
    read=read,
    write=write,
    dtypes=("float32", "float16", "bfloat16", "q8_0", *TYPES),
)
