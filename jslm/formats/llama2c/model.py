"""llama2.c's `.bin` of version 0, read and written, with its `tokenizer.bin` beside it.

Seven int32 (d_model, d_ff, layers, heads, key/value heads, vocabulary, context; the vocabulary negative where the head
is not tied), then the float32 tensors of `llama2c_weights.tensor_shapes`. Little-endian; `export.py` in llama2.c.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from jslm.config import ModelConfig, SampleConfig, config_from_dict
from jslm.errors import JslmError
from jslm.files import whole_file
from jslm.formats.gguf.vocabulary import vocabulary_of
from jslm.formats.gguf.weights import choose_architecture
from jslm.formats.llama2c.tokenizer import NAME, find_tokenizer, tokenizer_bytes
from jslm.formats.llama2c.weights import TABLES, params_of, rotary_tables, tensor_of, tensor_shapes
from jslm.runs.bundle import Bundle, Format, check_vocabulary
from jslm.tokenizer.sentencepiece import SentencePieceTokenizer

_log = logging.getLogger("jslm")
_HEADER = struct.Struct("<7i")
_FIELDS = ("d_model", "d_ff", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "context_length")
# Of the versions 1 and 2.
_MAGIC = 0x616B3432
_PLAUSIBLE = 2**20
# A key of the figures: how the file's rotary tables differ from ours, in units of the last place.
TABLES_FIGURE = "llama2c/rotary_tables"
_TOLERANCE, _MAX_FIGURE = 1e-3, 2**17
_DEFAULTS = SampleConfig()


def detect(path: Path) -> bool:
    """Whether a file has the size that its first seven numbers say, or is named `.bin` and begins with likely ones."""
    try:
        numbers, size = _read_numbers(path)
        if numbers[0] == _MAGIC:
            return True
        # A damaged file is llama2.c's still, and `read` says what is wrong with it.
        is_likely = path.suffix == ".bin" and max(map(abs, numbers)) < _PLAUSIBLE
        return size == _file_size(_model(_fields(numbers), str(path))) or is_likely
    except (OSError, ValueError, JslmError):
        return False


def describe(path: Path) -> dict[str, Any]:
    """The shape that the header says. Raises JslmError for a bad file."""
    model = _read_model(path)
    tensors = {name: shape for name, shape in tensor_shapes(model).items() if name not in TABLES}
    return {
        "format": "llama2.c version 0",
        "architecture": "llama",
        "parameters": sum(map(math.prod, tensors.values())),
        "weights": f"float32 in {len(tensors)} stacks",
        **{name: getattr(model, name) for name in _FIELDS},
        "tied head": model.tie_embeddings,
        "tokenizer": f"{NAME} or tok*.bin beside the file",
    }


def read(path: Path) -> Bundle:
    """The model of a `.bin`, with the tokenizer of the `tokenizer.bin` or `tok*.bin` of its folder.

    Raises JslmError where one of the two is missing or damaged, or the rotary tables are not those of base 10,000.
    """
    model = _read_model(path)
    tokenizer = find_tokenizer(path, model.vocab_size)
    tensors: dict[str, np.ndarray] = {}
    offset = _HEADER.size
    for name, shape in tensor_shapes(model).items():
        tensors[name] = np.memmap(path, "<f4", "r", offset, shape)
        offset += 4 * math.prod(shape)
    figures = _check_tables(path, np.stack([tensors[name] for name in TABLES]), model)
    config = config_from_dict({"model": model.model_dump()}, str(path))
    return Bundle(config, params_of(tensors, model), tokenizer, figures=figures, source=str(path))


def write(bundle: Bundle, path: Path, dtype: str) -> None:
    """Writes `bundle` to the file `path` and its tokenizer beside it as `tokenizer.bin`; each whole, or not at all.

    Raises JslmError that lists every option llama2.c has nothing for, and where a file cannot be written, or another
    `tokenizer.bin` is there already.
    """
    del dtype
    check_expressible(bundle)
    model, tokenizer = bundle.config.model, cast(SentencePieceTokenizer, bundle.tokenizer)
    content, beside = tokenizer_bytes(tokenizer), path.with_name(NAME)
    if path.name == NAME:
        raise JslmError(f"{path}: the tokenizer has this name; choose another for the model, such as model.bin")
    if beside.exists() and beside.read_bytes() != content:
        raise JslmError(f"{beside}: another tokenizer is there; choose another folder, or move it away")
    tables = dict(zip(TABLES, _tables(bundle), strict=True))
    left_out = ["its chat template"] if bundle.chat_template else []
    left_out += ["its sampling settings (run takes them as -t, -p and -n)"] if bundle.config.sample != _DEFAULTS else []
    if left_out:
        _log.info("%s: the file has no place for %s", path, " and ".join(left_out))
    with whole_file(path) as temporary:
        with temporary.open("xb") as stream:
            vocab_size = model.vocab_size if model.tie_embeddings else -model.vocab_size
            sizes = (model.d_model, model.hidden_dim, model.n_layers, model.n_heads, model.kv_heads, vocab_size)
            stream.write(_HEADER.pack(*sizes, model.context_length))
            for name in tensor_shapes(model):
                array = tables[name] if name in tables else tensor_of(name, bundle.params, model)
                stream.write(np.ascontiguousarray(array, "<f4").data)
        # Before the model gets its name: a model without its tokenizer is of no use.
        with whole_file(beside) as temporary_tokenizer:
            temporary_tokenizer.write_bytes(content)


def check_expressible(bundle: Bundle) -> None:
    """Raises JslmError that lists every option of the model that llama2.c has nothing for."""
    model, tokenizer = bundle.config.model, bundle.tokenizer
    check_vocabulary(bundle.config, bundle.tokenizer)
    only = {
        "norm": "rmsnorm",
        "norm_eps": 1e-5,
        "position": "rope",
        "rope_theta": 10000.0,
        "activation": "swiglu",
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "logit_softcap": 0.0,
    }
    missing = [
        f"model.{name} = {getattr(model, name)!r} (it has {value!r})"
        for name, value in only.items()
        if getattr(model, name) != value
    ]
    if model.conditions:
        missing.append(f"model.conditions ({', '.join(condition.name for condition in model.conditions)}; it has none)")
    if model.rope_scaling.kind != "none":
        missing.append(f"model.rope_scaling.kind = {model.rope_scaling.kind!r} (it has none)")
    if model.n_heads * model.dim_per_head != model.d_model:
        missing.append(f"model.head_dim = {model.dim_per_head} (it has d_model / n_heads)")
    if model.position != "rope" and model.dim_per_head % 2:
        missing.append(f"model.head_dim = {model.dim_per_head} (it has even ones)")
    if tokenizer.kind != "sentencepiece":
        # It puts a space before every prompt and joins pieces across words: none of the other kinds does both.
        missing.append(f"a tokenizer of kind {tokenizer.kind!r} (it has SentencePiece's)")
    if not bundle.ends_documents:
        missing.append("documents without a token between them (it begins each with <s>)")
    if missing:
        raise JslmError(
            f"llama2.c cannot express {'; '.join(missing)}; the nearest format that can is {_nearest(bundle)}"
        )


def _nearest(bundle: Bundle) -> str:
    try:
        choose_architecture(bundle.config.model)
        vocabulary_of(bundle.tokenizer)
    except JslmError:
        return "one file of safetensors: export with --format safetensors"
    return "GGUF: export with --format gguf"


def _read_model(path: Path) -> ModelConfig:
    """The model of a header that the file's size agrees with. Raises JslmError."""
    try:
        numbers, size = _read_numbers(path)
    except OSError as error:
        raise JslmError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise JslmError(f"{path}: {error}") from error
    if numbers[0] == _MAGIC:
        raise JslmError(
            f"{path}: version {numbers[1]} of llama2.c's format; jslm reads version 0: export it with --version 0"
        )
    try:
        model = _model(_fields(numbers), str(path))
    except ValueError as error:
        raise JslmError(f"{path}: {error}; this is no model of llama2.c, or a damaged one") from error
    expected = _file_size(model)
    if size != expected:
        raise JslmError(f"{path}: {size:,} bytes, but its header says {expected:,}; the file is damaged: get it anew")
    return model


def _read_numbers(path: Path) -> tuple[tuple[int, ...], int]:
    """(the seven numbers, size of the file). Raises OSError, or ValueError for a file that is too short."""
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
        size = os.fstat(stream.fileno()).st_size
    if len(header) < _HEADER.size:
        raise ValueError(f"{len(header)} bytes; expected a llama2.c file, which begins with {_HEADER.size}")
    return _HEADER.unpack(header), size


def _fields(numbers: tuple[int, ...]) -> dict[str, Any]:
    """The keys of `[model]` that the header says. Raises ValueError for numbers that cannot be."""
    fields: dict[str, Any] = dict(zip(_FIELDS, numbers, strict=True))
    fields["tie_embeddings"] = fields["vocab_size"] > 0
    fields["vocab_size"] = abs(fields["vocab_size"])
    for name in _FIELDS:
        if fields[name] < 1:
            raise ValueError(f"its header says {name} = {fields[name]:,}, expected at least 1")
    for name, divisor in (("d_model", "n_heads"), ("n_heads", "n_kv_heads")):
        if fields[name] % fields[divisor]:
            raise ValueError(
                f"its header says {name} = {fields[name]:,}, which {fields[divisor]:,} {divisor} do not divide"
            )
    if fields["d_model"] // fields["n_heads"] % 2:
        raise ValueError(
            f"its header says {fields['d_model'] // fields['n_heads']:,} as the width of a head, which is odd"
        )
    return fields


def _model(fields: dict[str, Any], where: str) -> ModelConfig:
    return config_from_dict({"model": {"norm_eps": 1e-5, "rope_theta": 10000.0, **fields}}, where).model


def _file_size(model: ModelConfig) -> int:
    return _HEADER.size + 4 * sum(map(math.prod, tensor_shapes(model).values()))


def _check_tables(path: Path, found: np.ndarray, model: ModelConfig) -> dict[str, Any]:
    """The figures that make the same tables again. Raises JslmError for tables of another rotation."""
    if not found.any():
        # Newer versions of llama2.c compute them, and some programs leave them out.
        return {}
    expected = rotary_tables(model)
    if not np.allclose(found, expected, rtol=0.0, atol=_TOLERANCE):
        raise JslmError(
            f"{path}: its rotary tables are not those of base 10,000, which is what llama2.c computes with; "
            "import the model that it was exported from"
        )
    # Cosines differ in the last bit from one library of mathematics to another (PyTorch has several).
    differences = found.view("<i4").astype(np.int64) - expected.view("<i4")
    if not differences.any() or np.abs(differences).max() > np.iinfo(np.int32).max:
        return {}
    text = base64.b64encode(zlib.compress(differences.astype("<i4").tobytes(), 9)).decode("ascii")
    return {TABLES_FIGURE: text} if len(text) <= _MAX_FIGURE else {}


def _tables(bundle: Bundle) -> np.ndarray:
    """Cosines and sines: those of the file that the model came from, to the last bit, where it came from one."""
    tables = rotary_tables(bundle.config.model)
    text = bundle.figures.get(TABLES_FIGURE)
    if text is None:
        return tables
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), tables.nbytes)
        differences = np.frombuffer(data, "<i4").reshape(tables.shape)
    except (TypeError, ValueError, zlib.error):
        # Of another context length, for one: they concern the last bit and nothing else.
        _log.info("the rotary tables are computed anew: those of the imported file were of another shape")
        return tables
    return (tables.view("<i4") + differences).astype("<i4").view("<f4")


FORMAT = Format(
    name="llama2c",
    summary="llama2.c's .bin (version 0) with its tokenizer.bin, for llama2.c and its ports",
    detect=detect,
    describe=describe,
    read=read,
    write=write,
    dtypes=("float32",),
)
