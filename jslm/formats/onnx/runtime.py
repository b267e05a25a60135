"""A decoder run by onnxruntime: prompts read, tokens written one by one, logits of whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.formats.onnx.check import check_onnx
from jslm.formats.onnx.file import read_onnx
from jslm.formats.onnx.folder import graph_of
from jslm.formats.onnx.products import Layout, cache_names

# Logits of so many bytes at once, where those of every position are asked for.
_MAX_LOGITS = 1 << 28
_FATAL = 4


@dataclass(frozen=True)
class OnnxCache:
    """Keys and values of the tokens read so far, as onnxruntime holds them.

    `values`: keys and values in turn, a pair a layer, `[batch, kv_heads, slots, head_dim]` each. `seen`
    `[batch, slots]` int64: 1 where a slot holds a token, 0 where a shorter row has none. A row's tokens stand in the
    order of their positions; which slot holds which position differs by row.
    """

    values: Sequence[Any]
    seen: NDArray[np.int64]


class Decoder:
    """A model of jslm's in a session of onnxruntime, on the CPU, whatever its graph.

    `model` is the decoder's shape, `kind` how its matrices are held, `folded` the label that is built in for a
    condition ("" for none), `open_conditions` those that every call takes.
    """

    def __init__(self, path: Path, layout: Layout, session: Any) -> None:
        self.path, self.model = path, layout.model
        self.kind, self.folded, self.open_conditions = layout.kind, layout.folded, layout.open_conditions
        self._session = session
        self._past, self._present = (cache_names(layout.model, name) for name in ("past_key_values", "present"))

    @property
    def runtime(self) -> str:
        """What computes, with its version."""
        return f"onnxruntime {require_onnxruntime().__version__}"

    def logits(self, tokens: ArrayLike, conditions: ArrayLike | None = None) -> NDArray[np.float32]:
        """Logits `[batch, length, vocab]` of whole rows `[batch, length]`, a token's behind it and those before it."""
        ids = np.asarray(tokens, np.int64)
        batch, length = ids.shape
        if length > self.model.context_length:
            raise JslmError(f"{self.path}: {length:,} tokens, and the context is {self.model.context_length:,}")
        labels = self._labels(conditions, batch)
        at_once = max(1, _MAX_LOGITS // (4 * max(1, length) * self.model.vocab_size))
        found = np.empty((batch, length, self.model.vocab_size), np.float32)
        for start in range(0, batch, at_once):
            part = slice(start, start + at_once)
            found[part] = self._logits(ids[part], None if labels is None else labels[part])
        return found

    def _logits(self, ids: NDArray[np.int64], labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        raise NotImplementedError

    def _placed(
        self, tokens: ArrayLike, lengths: ArrayLike, positions: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All three as arrays. Raises JslmError where a row would stand past the context."""
        ids, counts, first = (np.asarray(values, np.int64) for values in (tokens, lengths, positions))
        if len(ids) and int((first + counts).max()) > self.model.context_length:
            raise JslmError(
                f"{self.path}: position {int((first + counts).max()) - 1:,}, and the context is "
                f"{self.model.context_length:,} tokens; shorten the prompt"
            )
        return ids, counts, first

    def _labels(self, conditions: ArrayLike | None, batch: int) -> NDArray[np.int64] | None:
        kinds = len(self.open_conditions)
        if not kinds:
            return None
        return np.full((batch, kinds), -1, np.int64) if conditions is None else np.asarray(conditions, np.int64)

    def _go(self, binding: Any, options: Any = None) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # onnxruntime has a class of its own for each code, and none above them
            raise JslmError(f"{self.path}: onnxruntime cannot run it ({_one_line(error)})") from None


class OnnxDecoder(Decoder):
    """A graph as it was exported."""

    def __init__(self, path: str | Path, *, kind: str = "", threads: int = 0) -> None:
        """Opens an `.onnx` file, or in a folder that jslm wrote the graph of that `kind` ("": the first in its list).

        `threads`: how many compute one product; 0: as many as there are cores. Raises JslmError where the file is bad,
        none of jslm's, or has been changed, the folder has no such graph, or onnxruntime is missing.
        """
        onnxruntime = require_onnxruntime()
        graph = graph_of(Path(path), kind)
        super().__init__(graph, check_onnx(read_onnx(graph)), open_session(graph, threads))
        self._new = onnxruntime.OrtValue.ortvalue_from_numpy
        self._body_alone = onnxruntime.RunOptions()
        self._body_alone.only_execute_path_to_fetches = True

    def prefill(
        self, tokens: ArrayLike, lengths: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OnnxCache, NDArray[np.float32]]:
        """Reads prompts: (cache, logits `[batch, vocab]` behind each row's last token).

        `tokens` `[batch, length]` with whatever behind the first `lengths` `[batch]` of a row, each 1 or more.
        `conditions` `[batch, kinds]`: the number of each row's label of each of `open_conditions`, -1 for none (so by
        default). Raises JslmError where a row is longer than the context.
        """
        ids, counts = np.asarray(tokens, np.int64), np.asarray(lengths, np.int64)
        return self.read(ids, counts, self._empty(len(ids)), np.zeros(len(ids), np.int64), conditions)

    def read(
        self,
        tokens: ArrayLike,
        lengths: ArrayLike,
        cache: OnnxCache,
        positions: ArrayLike,
        conditions: ArrayLike | None = None,
    ) -> tuple[OnnxCache, NDArray[np.float32]]:
        """As `prefill`, behind what `cache` holds: row r's tokens stand at `positions[r]` and after."""
        ids, counts, first = self._placed(tokens, lengths, positions)
        labels = self._labels(conditions, len(ids))
        rows = np.arange(len(ids))
        if ids.shape[1] > 1:
            # Not the last tokens: the head computes logits for every token it is given.
            body = np.arange(ids.shape[1] - 1)[None]
            places = np.minimum(first[:, None] + body, self.model.context_length - 1)
            seen = np.concatenate([cache.seen, (body < counts[:, None] - 1).astype(np.int64)], axis=1)
            outputs = self._run(ids[:, :-1], seen, places, labels, cache.values, self._present)
            cache = OnnxCache(outputs, seen)
        return self.step(ids[rows, counts - 1], cache, first + counts - 1, labels)

    def read_all(
        self, tokens: ArrayLike, cache: OnnxCache | None, positions: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OnnxCache, NDArray[np.float32]]:
        """Rows of one length `[batch, length]` behind what `cache` holds (None: nothing): (cache with them, logits
        `[batch, length, vocab]` behind each of their tokens)."""
        ids = np.asarray(tokens, np.int64)
        batch, length = ids.shape
        cache = self._empty(batch) if cache is None else cache
        places = np.asarray(positions, np.int64)[:, None] + np.arange(length)[None]
        seen = np.concatenate([cache.seen, np.ones_like(ids)], axis=1)
        labels = self._labels(conditions, batch)
        logits, *values = self._run(ids, seen, places, labels, cache.values, ["logits", *self._present])
        return OnnxCache(values, seen), logits.numpy()

    def step(
        self, tokens: ArrayLike, cache: OnnxCache, positions: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OnnxCache, NDArray[np.float32]]:
        """One token `[batch]` a row, at `positions` `[batch]`: (cache with it, logits `[batch, vocab]`).

        `cache` stays as it is, and can be gone on from again.
        """
        ids, places = (np.asarray(values, np.int64)[:, None] for values in (tokens, positions))
        seen = np.concatenate([cache.seen, np.ones((len(ids), 1), np.int64)], axis=1)
        labels = self._labels(conditions, len(ids))
        logits, *values = self._run(ids, seen, places, labels, cache.values, ["logits", *self._present])
        return OnnxCache(values, seen), logits.numpy()[:, 0]

    def _logits(self, ids: NDArray[np.int64], labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        places = np.broadcast_to(np.arange(ids.shape[1])[None], ids.shape)
        empty = self._empty(len(ids)).values
        found: NDArray[np.float32] = self._run(ids, np.ones_like(ids), places, labels, empty, ["logits"])[0].numpy()
        return found

    def _empty(self, batch: int) -> OnnxCache:
        none = np.zeros((batch, self.model.kv_heads, 0, self.model.dim_per_head), np.float32)
        return OnnxCache([self._new(none) for _ in self._past], np.zeros((batch, 0), np.int64))

    def _run(
        self,
        ids: NDArray[Any],
        seen: NDArray[Any],
        places: NDArray[Any],
        labels: NDArray[Any] | None,
        past: Sequence[Any],
        outputs: Sequence[str],
    ) -> list[Any]:
        binding = self._session.io_binding()
        feeds: dict[str, NDArray[Any] | None] = {"input_ids": ids, "attention_mask": seen, "conditions": labels}
        if self.model.position != "none":
            feeds["position_ids"] = places
        # Arrays are not copied: they have to live until the run is over.
        feeds = {name: np.ascontiguousarray(array, np.int64) for name, array in feeds.items() if array is not None}
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._past, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name)
        self._go(binding, None if "logits" in outputs else self._body_alone)
        found: list[Any] = binding.get_outputs()
        return found


def require_onnxruntime() -> Any:
    """The package `onnxruntime`. Raises JslmError with the command that installs it."""
    return load_extra("onnxruntime", "onnx", "running ONNX")


def open_session(path: Path, threads: int, graph: bytes | None = None) -> Any:
    """A session on the CPU of the file `path`, or of `graph`, which has weights in that file.

    Raises JslmError where onnxruntime cannot open it.
    """
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    # Every step has shapes of its own, so that none is met again.
    options.enable_mem_pattern = False
    # Threads that spin for work are slower than one alone where the cores have other work as well.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return onnxruntime.InferenceSession(graph or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each code, and none above them
        raise JslmError(f"{path}: onnxruntime cannot open it ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    """What onnxruntime says, cut at 200 characters."""
    return " ".join(str(error).split())[:200]
