"""A decoder run by onnxruntime in the graph of `own_graph`: keys and values are written where they stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jslm.errors import JslmError
from jslm.formats.onnx.check import check_onnx, parameter_shapes
from jslm.formats.onnx.file import read_onnx
from jslm.formats.onnx.folder import graph_of
from jslm.formats.onnx.own_graph import own_model, runs_in_place
from jslm.formats.onnx.runtime import Decoder, OnnxDecoder, open_session, require_onnxruntime

# Of a cache, at first; it doubles.
_SLOTS = 256


class OwnCache:
    """Keys and values of the tokens read so far: row r's token at position p stands in slot p.

    `arrays`: keys and values in turn, a pair a layer, `[batch, kv_heads, capacity, head_dim]` float32, which reading
    and writing change.
    """

    def __init__(self, arrays: list[NDArray[np.float32]]) -> None:
        self.arrays = arrays
        self.step: _Step | None = None

    @property
    def capacity(self) -> int:
        """Tokens a row that there is room for."""
        return int(self.arrays[0].shape[2])


class OwnDecoder(Decoder):
    """A file of jslm's in a graph of its own; it computes what `OnnxDecoder` does, sums in another order."""

    def __init__(self, path: str | Path, *, kind: str = "", threads: int = 0) -> None:
        """Opens an `.onnx` file, or in a folder that jslm wrote the graph of that `kind` ("": the first in its list).

        `threads`: how many compute one product; 0: as many as there are cores. Raises JslmError where the file is bad,
        none of jslm's, or has been changed, the folder has no such graph, onnxruntime is missing, or its attention
        does not take heads of this width (`runs_in_place`).
        """
        onnxruntime = require_onnxruntime()
        file = read_onnx(graph_of(Path(path), kind))
        layout = check_onnx(file)
        if not runs_in_place(layout.model):
            raise JslmError(
                f"{file.path}: heads of {layout.model.dim_per_head}, and GroupQueryAttention takes multiples of 16; "
                "open it with OnnxDecoder"
            )
        graph = own_model(layout, file, parameter_shapes(layout.model))
        super().__init__(file.path, layout, open_session(file.path, threads, graph))
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy

    def prefill(
        self, tokens: ArrayLike, lengths: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OwnCache, NDArray[np.float32]]:
        """Reads prompts: (cache, logits `[batch, vocab]` behind each row's last token).

        `tokens` `[batch, length]` with whatever behind the first `lengths` `[batch]` of a row, each 1 or more.
        `conditions` `[batch, kinds]`: the number of each row's label of each of `open_conditions`, -1 for none (so by
        default). Raises JslmError where a row is longer than the context.
        """
        counts = np.asarray(lengths, np.int64)
        cache = self._empty(len(counts), int(counts.max(initial=0)) + 1)
        return self.read(tokens, counts, cache, np.zeros_like(counts), conditions)

    def read(
        self,
        tokens: ArrayLike,
        lengths: ArrayLike,
        cache: OwnCache,
        positions: ArrayLike,
        conditions: ArrayLike | None = None,
    ) -> tuple[OwnCache, NDArray[np.float32]]:
        """As `prefill`, behind what `cache` holds, which changes: row r's tokens stand at `positions[r]` and after."""
        ids, counts, first = self._placed(tokens, lengths, positions)
        cache = self._with_room(cache, int((first + counts).max(initial=1)))
        labels = self._labels(conditions, len(ids))
        # The operator takes several rows from the beginning on and of one length, or one row.
        if len(ids) <= 1 or (not first.any() and (counts == counts[0]).all()):
            parts = [slice(0, len(ids))]
        else:
            parts = [slice(row, row + 1) for row in range(len(ids))]
        found = []
        for part in parts:
            length, rows = int(counts[part][0]), part.stop - part.start
            wanted = np.arange(rows) * length + length - 1
            kinds = None if labels is None else labels[part]
            arrays = [array[part] for array in cache.arrays]
            found.append(self._run(ids[part, :length], first[part], arrays, kinds, wanted))
        return cache, np.concatenate(found)

    def read_all(
        self, tokens: ArrayLike, cache: OwnCache | None, positions: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OwnCache, NDArray[np.float32]]:
        """Rows of one length `[batch, length]` behind what `cache` holds (None: nothing): (cache with them, logits
        `[batch, length, vocab]` behind each of their tokens)."""
        ids, first = np.asarray(tokens, np.int64), np.asarray(positions, np.int64)
        batch, length = ids.shape
        slots = int(first.max(initial=0)) + length
        cache = self._empty(batch, slots) if cache is None else self._with_room(cache, slots)
        labels = self._labels(conditions, batch)
        found = []
        for row in range(batch):
            part = slice(row, row + 1)
            kinds = None if labels is None else labels[part]
            arrays = [array[part] for array in cache.arrays]
            found.append(self._run(ids[part], first[part], arrays, kinds, np.arange(length)))
        return cache, np.stack(found)

    def step(
        self, tokens: ArrayLike, cache: OwnCache, positions: ArrayLike, conditions: ArrayLike | None = None
    ) -> tuple[OwnCache, NDArray[np.float32]]:
        """One token `[batch]` a row, at `positions` `[batch]`: (cache with it, logits `[batch, vocab]`).

        The logits are there until the next step of this cache.
        """
        places = np.asarray(positions, np.int32)
        slots = int(places.max()) + 1
        cache = self._with_room(cache, slots)
        if cache.step is None:
            cache.step = _Step(self, cache, len(places))
        step = cache.step
        step.ids[:, 0] = tokens
        step.last[:] = places
        step.slots[...] = slots
        if step.places is not None:
            step.places[:, 0] = places
        labels = self._labels(conditions, len(places))
        if step.labels is not None and labels is not None:
            step.labels[:] = labels
        self._go(step.binding)
        return cache, step.logits

    def _logits(self, ids: NDArray[np.int64], labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        rows, length = ids.shape
        arrays, wanted = self._arrays(rows, length), np.arange(rows * length)
        return self._run(ids, np.zeros(rows, np.int64), arrays, labels, wanted).reshape(rows, length, -1)

    def bind(self, arrays: Sequence[NDArray[Any]], feeds: dict[str, NDArray[Any] | None]) -> Any:
        """A binding of the inputs to `feeds` and of the cache to `arrays`; all have to live as long as it does."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            if array is not None:
                binding.bind_ortvalue_input(name, self._value(array))
        for array, past, present in zip(arrays, self._past, self._present, strict=True):
            value = self._value(array)
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
        return binding

    def bind_logits(self, binding: Any, logits: NDArray[np.float32]) -> None:
        """Has the logits written to this array."""
        binding.bind_ortvalue_output("logits", self._value(logits))

    def _run(
        self,
        ids: NDArray[np.int64],
        first: NDArray[np.int64],
        arrays: Sequence[NDArray[np.float32]],
        labels: NDArray[np.int64] | None,
        wanted: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Logits `[wanted, vocab]` of rows of one length, those behind the tokens `wanted`, counted over all rows."""
        length = ids.shape[1]
        last = (first + length - 1).astype(np.int32)
        places = None
        if self.model.position == "learned":
            places = np.ascontiguousarray(first[:, None] + np.arange(length)[None])
        logits = np.empty((len(wanted), self.model.vocab_size), np.float32)
        feeds: dict[str, NDArray[Any] | None] = {
            "input_ids": np.ascontiguousarray(ids),
            "last": last,
            "slots": np.array(last.max() + 1, np.int32),
            "rows": wanted,
            "position_ids": places,
            "conditions": None if labels is None else np.ascontiguousarray(labels),
        }
        binding = self.bind(arrays, feeds)
        self.bind_logits(binding, logits)
        self._go(binding)
        return logits

    def _arrays(self, batch: int, slots: int) -> list[NDArray[np.float32]]:
        shape = (batch, self.model.kv_heads, slots, self.model.dim_per_head)
        return [np.zeros(shape, np.float32) for _ in self._past]

    def _empty(self, batch: int, slots: int) -> OwnCache:
        return OwnCache(self._arrays(batch, self._capacity(slots)))

    def _capacity(self, slots: int) -> int:
        return min(max(_SLOTS, 1 << (slots - 1).bit_length()), self.model.context_length)

    def _with_room(self, cache: OwnCache, slots: int) -> OwnCache:
        if slots <= cache.capacity:
            return cache
        grown = self._empty(len(cache.arrays[0]), slots)
        for new, old in zip(grown.arrays, cache.arrays, strict=True):
            new[:, :, : cache.capacity] = old
        return grown


class _Step:
    """The arrays that one token a row is given in, bound once."""

    def __init__(self, decoder: OwnDecoder, cache: OwnCache, batch: int) -> None:
        self.ids, self.rows = np.zeros((batch, 1), np.int64), np.arange(batch)
        self.last, self.slots = np.zeros(batch, np.int32), np.zeros((), np.int32)
        learned, kinds = decoder.model.position == "learned", len(decoder.open_conditions)
        self.places = np.zeros((batch, 1), np.int64) if learned else None
        self.labels = np.zeros((batch, kinds), np.int64) if kinds else None
        self.logits = np.empty((batch, decoder.model.vocab_size), np.float32)
        feeds: dict[str, NDArray[Any] | None] = {
            "input_ids": self.ids, "last": self.last, "slots": self.slots, "rows": self.rows,
            "position_ids": self.places, "conditions": self.labels,
        }  # fmt: skip
        self.binding = decoder.bind(cache.arrays, feeds)
        decoder.bind_logits(self.binding, self.logits)


def open_decoder(path: str | Path, *, kind: str = "", threads: int = 0) -> OwnDecoder | OnnxDecoder:
    """The graph as jslm runs it, or as it was exported where onnxruntime's attention does not take heads so wide."""
    decoder_path = graph_of(Path(path), kind)
    layout = check_onnx(read_onnx(decoder_path))
    opened = OwnDecoder if runs_in_place(layout.model) else OnnxDecoder
    return opened(path, kind=kind, threads=threads)
