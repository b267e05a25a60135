"""Arrays between a checkpoint's types and the project's float32 parameters; safetensors files, read with care."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jslm.errors import JslmError

_log = logging.getLogger("jslm")
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Largest magnitude: float16's own, and that of q8_0, whose blocks have a float16 scale of up to 127 steps.
_LIMITS = {"float16": 65504.0, "q8_0": 65504.0 * 127}
_FLOATS = ("F64", "F32", "F16", "BF16")


def check_weights(name: str, array: np.ndarray, dtype: str, remedy: str = "--dtype bfloat16 or float32") -> None:
    """Raises JslmError naming `name` where a weight is not finite, or too large for `dtype`."""
    largest = float(np.abs(array).max(initial=0.0))
    if not np.isfinite(largest):
        raise JslmError(f"{name} has weights that are not finite: the training has diverged; try another checkpoint")
    limit = _LIMITS.get(dtype, np.inf)
    if largest > limit:
        raise JslmError(
            f"{name} has a weight of {largest:g}, above what {dtype} holds ({limit:g}); export with {remedy}"
        )


def cast_weights(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """`array` in `dtype`, contiguous. Raises JslmError naming `name` where a weight is not finite or too large."""
    check_weights(name, array, dtype)
    return np.ascontiguousarray(array, DTYPES[dtype])


def pad_rows(table: np.ndarray, rows: int) -> np.ndarray:
    """`[vocab, d]` in float32 with zero rows up to `rows`."""
    return np.pad(np.asarray(table, np.float32), ((0, rows - len(table)), (0, 0)))


def stack_layers(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One tree whose leaves are the layers' float32 leaves stacked on axis 0, from a tree a layer."""
    trees = list(layers)
    result: dict[str, Any] = {}
    for name, first in trees[0].items():
        branches = [tree[name] for tree in trees]
        if isinstance(first, Mapping):
            result[name] = stack_layers(branches)
        else:
            result[name] = np.stack([np.asarray(branch, np.float32) for branch in branches])
    return result


def layer_at(tree: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The tree of one layer from the stacked one."""
    return {
        name: layer_at(branch, index) if isinstance(branch, Mapping) else np.asarray(branch[index], np.float32)
        for name, branch in tree.items()
    }


def is_causal_mask(array: np.ndarray) -> bool:
    """Whether `array`, `[..., n, n]`, lets each position see itself and those before it, and nothing else.

    As 1 and 0, or as 0 and minus infinity that are added to scores.
    """
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return False
    causal = np.tri(array.shape[-1], dtype=bool)
    return bool(np.all((array != 0) == causal) or np.all((array == 0) == causal))


def same_weights(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two tensors of a checkpoint are one weight twice."""
    # What is not a number is not equal to itself.
    return first.shape == second.shape and bool(np.all((first == second) | ((first != first) & (second != second))))


def tied_by_its_tensors(where: str, says_tied: bool, embedding: np.ndarray, head: np.ndarray | None) -> bool:
    """Whether a model has one table for embedding and output head: what its tensors are counts, not what it says.

    A head that differs from the embedding is a weight of the model, and a word in the log says so.
    """
    if head is None or not says_tied:
        return says_tied
    if same_weights(embedding, head):
        return True
    _log.warning(
        "%s: by its config or its kind the output head is the token embedding, but it holds a head of other weights: "
        "kept, as a head of its own (tie_embeddings = false)",
        where,
    )
    return False


class TensorReader:
    """Named tensors, taken one by one, so that what is missing, left over or of another shape is told in one line."""

    def __init__(self, where: str, shapes: Mapping[str, tuple[int, ...]], get: Callable[[str], np.ndarray]) -> None:
        """`shapes` of all tensors there are; `get` reads one; `where` names the file in errors."""
        self.where, self._shapes, self._get = where, dict(shapes), get
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def take(self, name: str, *shape: int) -> np.ndarray:
        """The tensor as float32. Raises JslmError where it is missing or not of `shape`."""
        found = self._shapes.get(name)
        if found is None:
            raise JslmError(f"{self.where}: no tensor {name}, which its config asks for; the file is incomplete")
        if found != shape:
            raise JslmError(
                f"{self.where}: {name} is {_shape(found)}, expected {_shape(shape)} by its config; "
                "they do not belong together"
            )
        self._taken.add(name)
        return np.asarray(self._get(name), np.float32)

    def pass_over(
        self, wanted: Callable[[str], bool], holds: Callable[[np.ndarray], bool], what: str, *, otherwise: str = ""
    ) -> None:
        """Counts the tensors whose name is `wanted` as taken: buffers, which jslm has no place for and computes itself.

        Raises JslmError where one does not hold what jslm computes, `what`; with `otherwise`, which says what counts
        then, a warning is logged instead.
        """
        for name in sorted(filter(wanted, self._shapes)):
            is_held = holds(np.asarray(self._get(name)))
            if not is_held and otherwise:
                _log.warning("%s: %s is not %s: %s", self.where, name, what, otherwise)
            elif not is_held:
                raise JslmError(
                    f"{self.where}: {name} is not {what}; jslm, which has only that, would compute something else "
                    "than this model"
                )
            self._taken.add(name)

    def finish(self) -> None:
        """Raises JslmError naming the tensors that nobody took."""
        if left := sorted(self._shapes.keys() - self._taken):
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise JslmError(
                f"{self.where}: {', '.join(left[:5])}{more}: no part of this architecture; "
                "jslm would compute something else than this model"
            )


class SafetensorsFile:
    """A safetensors file, whose header is checked before anything is read. Raises JslmError where it is bad.

    The library refuses headers over 100 MB, past the end of the file, with gaps, overlaps or sizes that overflow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="np")
            names = list(self._file.keys())
            slices = {name: self._file.get_slice(name) for name in names}
            self.shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            self.types = {name: str(part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise JslmError(f"{path}: no safetensors file, or damaged: {_reason(error)}") from None

    @property
    def metadata(self) -> dict[str, str]:
        """The strings that its writer put beside the tensors."""
        return dict(self._file.metadata() or {})

    def get(self, name: str, types: Sequence[str] = _FLOATS) -> np.ndarray:
        """One tensor in its own type. Raises JslmError for a type that is none of `types`."""
        if self.types[name] not in types:
            reads = f"{self.path}: {name} is of type {self.types[name]}; jslm reads {', '.join(types)}"
            raise JslmError(reads + (": a quantised model has to be converted back first" if types == _FLOATS else ""))
        try:
            array: np.ndarray = self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise JslmError(f"{self.path}: {name}: damaged: {_reason(error)}") from None
        return array


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file. With one entry of metadata the same tensors always give the same bytes."""
    save_file(dict(tensors), path, metadata=dict(metadata))
    # The library makes files that their owner alone can read; the umask is what people expect.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
