"""What the reference model of `train.objective = "dpo"` thinks of each answer: computed once, kept in the run folder.

`reference.npz` has an array float32 `[pairs, 2]` a split and corpus (`train_0`, `val_0`, `train_1`, ...), summed
log-probabilities of the chosen and the rejected answer in nats, and in `key` which weights and data they are of. A ZIP
archive, so each array has a CRC-32.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float32

from jslm.config import Config
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.files import whole_file
from jslm.learn.preference import answer_log_probs
from jslm.model import Params
from jslm.parallel import batch_sharding, eval_batch_size, place_rows, replicated
from jslm.runs.checkpoint import flatten_tree
from jslm.tokens.loader import batch_names, count_examples, eval_batches
from jslm.tokens.preferences import REJECTED
from jslm.tokens.token_file import SPLITS, Split, TokenFile

_log = logging.getLogger("jslm")

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Reference:
    """Log-probabilities by split, an array `[pairs, 2]` a corpus, and the fingerprint of the weights they are of."""

    weights: str
    log_probs: dict[Split, list[Float32[np.ndarray, "pairs 2"]]]


def open_reference(
    path: Path,
    config: Config,
    files: dict[Split, list[TokenFile]],
    mesh: Mesh,
    dtype: jnp.dtype,
    rows: tuple[int, int],
    load: Callable[[], Params],
    weights: str,
) -> Reference:
    """What `path` holds, where it is whole and of these data and weights; else it is computed and written there.

    `load` gives the reference model's parameters, on the mesh; `weights` is their fingerprint where a checkpoint of the
    run knows it (then they are loaded only if the file is of no use), else empty. `rows` is (index, count), as of
    `process_rows`, for validation batches. Raises JslmError where the file is of no use and the weights are no longer
    those of before.
    """
    data = data_fingerprint(config, files)
    params = None if weights else load()
    expected = weights or weights_fingerprint(_whole(params))
    found = _read_shared(path, expected, data, [len(files[split]) for split in SPLITS])
    if found is not None:
        return found
    if params is None:
        params = load()
        if (now := weights_fingerprint(_whole(params))) != expected:
            raise JslmError(
                f"{path}: the reference model's log-probabilities are lost, and train.init_from = "
                f"{config.train.init_from} no longer holds the weights that this run began with ({now[:12]} found, "
                f"{expected[:12]} expected); put them or the file back, or start another run_dir"
            )
    found = Reference(expected, _compute(params, config, files, mesh, dtype, rows))
    if jax.process_index() == 0:
        _write(path, found, data)
    return found


def weights_fingerprint(params: Params) -> str:
    """SHA-256 of all arrays with their names and shapes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_tree(params).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def data_fingerprint(config: Config, files: dict[Split, list[TokenFile]]) -> str:
    """SHA-256 of what decides which pairs there are, and in which order."""
    length = config.model.context_length
    parts = [
        [split, file.meta[split]["sha256"], file.meta[REJECTED][split], count_examples(file, length, "preferences")]
        for split in SPLITS
        for file in files[split]
    ]
    return hashlib.sha256(json.dumps([length, parts]).encode()).hexdigest()


def _compute(
    params: Params,
    config: Config,
    files: dict[Split, list[TokenFile]],
    mesh: Mesh,
    dtype: jnp.dtype,
    rows: tuple[int, int],
) -> dict[Split, list[Float32[np.ndarray, "pairs 2"]]]:
    batch_shards = mesh.shape["data"] * mesh.shape["fsdp"]
    names = (name for name in batch_names("preferences", config.model.conditions) if name != "reference")
    step = jax.jit(
        lambda params, batch: answer_log_probs(params, batch, config, dtype, batch_shards),
        in_shardings=(None, dict.fromkeys(names, batch_sharding(mesh))),
        out_shardings=replicated(mesh),
    )

    def of_file(file: TokenFile) -> Float32[np.ndarray, "pairs 2"]:
        length, size = config.model.context_length, eval_batch_size(config)
        batches = eval_batches(file, length, size, 0, *rows, "preferences", config.model.conditions)
        # Small arrays: all of them may be under way at once.
        parts = [step(params, place_rows(batch, mesh)) for batch in batches]
        count = count_examples(file, length, "preferences")
        answers = [np.zeros((0, 2), np.float32)]
        with Bar("reference model", count, "pairs") as bar:
            for part in parts:
                answers.append(np.asarray(part))
                bar.add(len(answers[-1]))
        return np.concatenate(answers)[:count]

    found: dict[Split, list[Float32[np.ndarray, "pairs 2"]]] = {
        split: [of_file(file) for file in files[split]] for split in SPLITS
    }
    pairs = sum(len(array) for arrays in found.values() for array in arrays)
    _log.info("reference model %s: log-probabilities of %s pairs computed", config.train.init_from, f"{pairs:,}")
    return found


def _whole(params: Any) -> Any:
    """The arrays on this host, whatever the mesh."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(params, tiled=True)
    return jax.device_get(params)


def _write(path: Path, reference: Reference, data: str) -> None:
    arrays = {
        f"{split}_{number}": array
        for split, corpora in reference.log_probs.items()
        for number, array in enumerate(corpora)
    }
    key = json.dumps({"weights": reference.weights, "data": data}).encode()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.frombuffer(key, np.uint8), **arrays)  # type: ignore[arg-type]


def _read_shared(path: Path, weights: str, data: str, corpora: Sequence[int]) -> Reference | None:
    """What the first process reads, on all of them."""
    if jax.process_count() == 1:
        return _read(path, weights, data, corpora)
    is_first = jax.process_index() == 0
    content = path.read_bytes() if is_first and _read(path, weights, data, corpora) is not None else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(content))))
    if not size:
        return None
    buffer = np.frombuffer(content, np.uint8) if is_first else np.zeros(size, np.uint8)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
    return _parse(io.BytesIO(shared), corpora)[1]


def _read(path: Path, weights: str, data: str, corpora: Sequence[int]) -> Reference | None:
    """None, which is said, where the file is of no use."""
    if not path.exists():
        return None
    try:
        key, reference = _parse(path, corpora)
    except _DAMAGED as error:
        _log.warning("%s: damaged (%s: %s); computing it again", path, type(error).__name__, error)
        return None
    for what, wanted in (("weights", weights), ("data", data)):
        if key[what] != wanted:
            _log.warning(
                "%s: made with other %s (%s found, %s expected); computing it again",
                path, what, str(key[what])[:12], wanted[:12],
            )  # fmt: skip
            return None
    return reference


def _parse(file: Path | io.BytesIO, corpora: Sequence[int]) -> tuple[dict[str, str], Reference]:
    with np.load(file, allow_pickle=False) as arrays:
        key = json.loads(arrays["key"].tobytes())
        log_probs = {
            split: [np.asarray(arrays[f"{split}_{number}"], np.float32) for number in range(count)]
            for split, count in zip(SPLITS, corpora, strict=True)
        }
        return key, Reference(key["weights"], log_probs)
