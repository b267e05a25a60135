"""What the teachers of `train.objective = "distill"` expect in a text: computed once, kept beside its token files.

`teachers/KEY/` in the folder of the prepared data has `ids.npy` and `log_probs.npy`, an entry a token of `train.bin`
(see `jslm.tokens.taught.Columns`), and `meta.json` with CRC-32s and what they were made with: KEY is a digest of that,
so that students of the same teachers share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jslm.config import Config, ModelConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.files import whole_folder
from jslm.learn.reference import weights_fingerprint
from jslm.model import Params, apply_decoder, compute_dtype, logits_from_hidden
from jslm.runs.manifest import measured
from jslm.tokens.examples import open_examples
from jslm.tokens.loader import packing_of
from jslm.tokens.taught import Columns, open_places
from jslm.tokens.token_file import TokenFile, token_dtype

FOLDER = "teachers"
_META, _FILES = "meta.json", ("ids.npy", "log_probs.npy")
# Logits of a call, in float32: 128 MB of each teacher.
_LOGITS = 1 << 25
_LEAST = 1e-8
_log = logging.getLogger("jslm")


@dataclass(frozen=True)
class Teacher:
    """A model that is asked: where it is from, its shape, and its parameters on the host."""

    source: str
    model: ModelConfig
    params: Params


@dataclass(frozen=True)
class Teaching:
    """The columns of each corpus' training text, and the fingerprint of the teachers and how they were asked."""

    fingerprint: str
    columns: list[Columns]


def open_teaching(
    config: Config, files: Sequence[TokenFile], load: Callable[[], list[Teacher]], fingerprint: str = ""
) -> Teaching:
    """What the teachers expect in the training text of each corpus: from its folder, or computed and written there.

    `load` gives the teachers; `fingerprint` is theirs where a checkpoint of the run knows it: then they are loaded only
    where columns are missing. Of several processes the first computes, on one device. Raises JslmError where the
    folder can't be written, or teachers have to be asked again and are no longer those of before.
    """
    # By all processes alike: to restore a checkpoint they wait for each other.
    teachers = [] if fingerprint else load()
    fingerprint = fingerprint or teachers_fingerprint(config, teachers)
    metas = [{"teachers": fingerprint, "data": _data_fingerprint(config, file)} for file in files]
    paths = [
        file.path.parent / FOLDER / hashlib.sha256(json.dumps(meta).encode()).hexdigest()[:16]
        for file, meta in zip(files, metas, strict=True)
    ]
    corpora = list(zip(paths, metas, files, strict=True))
    is_first = jax.process_index() == 0
    missing = [each for each in corpora if _read(*each) is None] if is_first else []
    if _shared(bool(missing)):
        teachers = teachers or load()
        if (now := teachers_fingerprint(config, teachers)) != fingerprint:
            raise JslmError(
                f"{paths[0].parent}: what the teachers expect is lost, and train.distill.teachers are no longer those "
                f"that this run began with ({now[:12]} found, {fingerprint[:12]} expected); put them or the folder "
                "back, or start another run_dir"
            )
        for path, meta, file in missing:
            _compute(path, meta, config, file, teachers)
        # The others wait.
        _shared(True)
    found = [_read(*each) for each in corpora]
    return Teaching(fingerprint, [columns for columns in found if columns is not None])


def _shared(value: bool) -> bool:
    """What the first process says, on all of them."""
    return bool(multihost_utils.broadcast_one_to_all(np.int64(value))) if jax.process_count() > 1 else value


def teachers_fingerprint(config: Config, teachers: Sequence[Teacher]) -> str:
    """SHA-256 of the teachers' weights and shapes, in their order, and of what they are asked."""
    asked = {"top_k": config.train.distill.top_k, "temperature": config.train.distill.temperature}
    of_each = [[weights_fingerprint(each.params), each.model.model_dump(mode="json")] for each in teachers]
    return hashlib.sha256(json.dumps([asked, of_each], sort_keys=True).encode()).hexdigest()


def ask(teachers: Sequence[Teacher], k: int, temperature: float) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
    """`(inputs, segments or None) -> (ids, log_probs)`: `[rows, length]` tokens to `[rows, length, k]`, the k likeliest
    by the mean of the teachers' probabilities, each at `temperature`, the likeliest first."""
    dtypes = [compute_dtype(teacher.model) for teacher in teachers]

    @jax.jit
    def score(params: list[Params], inputs: jax.Array, segments: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros((), jnp.float32)
        for teacher, weights, dtype in zip(teachers, params, dtypes, strict=True):
            hidden = apply_decoder(weights, inputs, teacher.model, dtype, segments=segments)
            logits = logits_from_hidden(weights, hidden, teacher.model)
            total = total + jax.nn.softmax(logits / temperature, axis=-1)
        probs, ids = jax.lax.top_k(total / len(teachers), k)
        return ids, jnp.log(jnp.maximum(probs, _LEAST))

    placed = [jax.tree.map(jnp.asarray, teacher.params) for teacher in teachers]
    return lambda inputs, segments: score(placed, inputs, segments)


def _data_fingerprint(config: Config, file: TokenFile) -> str:
    known = file.meta["train"]
    parts = [known["sha256"], known["documents"], known.get("prompt_tokens"), known.get("learned_tokens")]
    return hashlib.sha256(json.dumps([packing_of(config), *parts]).encode()).hexdigest()


def _compute(path: Path, meta: dict[str, str], config: Config, file: TokenFile, teachers: Sequence[Teacher]) -> None:
    vocab_size = teachers[0].model.vocab_size
    k, tokens = min(config.train.distill.top_k, vocab_size), len(file.tokens)
    length, packing = min(teacher.model.context_length for teacher in teachers), packing_of(config)
    # Half of a window is read only, so that each token is expected with half a context before it at least.
    stride = max(1, length // 2) if packing == "windows" else 0
    examples = open_examples(file, length, packing, stride)
    places = open_places(file, length, packing, stride)
    rows = max(1, min(64, _LOGITS // (length * teachers[0].model.padded_vocab_size)))
    asked = ask(teachers, k, config.train.distill.temperature)
    dtypes = (token_dtype(vocab_size), np.dtype("<f2"))
    size = tokens * k * sum(dtype.itemsize for dtype in dtypes)
    _check_space(path, size)
    with whole_folder(path) as folder, Bar("teachers", tokens, "tokens") as bar:
        ids, log_probs = (
            np.lib.format.open_memmap(folder / name, "w+", dtype, (tokens, k))
            for name, dtype in zip(_FILES, dtypes, strict=True)
        )
        for start in range(0, examples.count, rows):
            numbers = np.arange(start, start + rows)
            numbers[numbers >= examples.count] = -1
            first = np.full(rows, length)
            batch, wanted = examples.gather(numbers, first), places.gather(numbers, first)["targets"]
            if stride:
                wanted[numbers > 0, :-stride] = -1
            found = [np.asarray(part) for part in asked(batch["inputs"], batch.get("segments"))]
            at = wanted >= 0
            ids[wanted[at]], log_probs[wanted[at]] = found[0][at], found[1][at]
            bar.add(int(at.sum()))
        for array in (ids, log_probs):
            array.flush()
        checked = {name: measured(folder / name)[1] for name in _FILES}
        (folder / _META).write_text(json.dumps({**meta, "crc32": checked}) + "\n", "utf-8")
    names = ", ".join(teacher.source for teacher in teachers)
    _log.info("teachers %s: %s tokens of %s asked, %.1f MB in %s", names, f"{tokens:,}", file.path, size / 1e6, path)


def _check_space(path: Path, size: int) -> None:
    # A mapped file for which there is no room kills the process.
    free = shutil.disk_usage(path.parents[1]).free
    if free < size + (1 << 20):
        raise JslmError(
            f"{path}: no space left on the disk: what the teachers expect takes {size / 1e6:,.1f} MB, and "
            f"{free / 1e6:,.1f} MB are free; free some, or lower train.distill.top_k"
        )


def _read(path: Path, meta: dict[str, str], file: TokenFile) -> Columns | None:
    """None, which is said, where they are of no use; they are put aside then."""
    if not path.is_dir():
        return None
    try:
        known = json.loads((path / _META).read_text("utf-8"))
        if {key: known[key] for key in meta} != meta:
            raise ValueError("made with others")
        for name in _FILES:
            if measured(path / name)[1] != known["crc32"][name]:
                raise ValueError(f"{name} is not as it was written")
        ids, log_probs = (np.load(path / name, mmap_mode="r", allow_pickle=False) for name in _FILES)
        if len(ids) != len(file.tokens) or ids.shape != log_probs.shape:
            raise ValueError(f"{len(ids):,} tokens found, {len(file.tokens):,} expected")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        _log.warning("%s: damaged (%s); set aside as %s, and the teachers are asked again", path, error, aside.name)
        try:
            path.rename(aside)
        except OSError as problem:
            raise JslmError(f"{path}: damaged, and can't be renamed ({problem.strerror}); delete it") from None
        return None
    # Plain views: indexing through np.memmap's subclass machinery is several times slower.
    return Columns(np.asarray(ids), np.asarray(log_probs))
