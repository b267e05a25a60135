"""Token files -> batches: a pure function of (seed, step), prefetched in the background. Alone in importing grain."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import grain
import numpy as np
from jaxtyping import Int32, Int64

from jslm.data.packing import NO_TARGET, PackedDocuments
from jslm.data.shuffle import epoch_draws, shuffled_order
from jslm.data.token_file import TokenFile
from jslm.errors import JslmError

log = logging.getLogger("jslm")

Packing = Literal["windows", "documents"]
_NO_WINDOW = -1
# Order is computed a block at a time: a batch alone is too few examples to be worth numpy's overhead.
_BLOCK = 4096
_PREFETCH = 4


# "inputs", "targets" and, for packed documents, "segments". `targets[r, i]` is the token that follows `inputs[r, i]`,
# or -1 where there is none to predict; `segments[r, i]` numbers the documents of a row from 1, and padding is 0.
Batch = dict[str, Int32[np.ndarray, "rows length"]]


def batch_names(packing: Packing) -> tuple[str, ...]:
    """The arrays of a batch."""
    return ("inputs", "targets", "segments") if packing == "documents" else ("inputs", "targets")


def count_examples(token_file: TokenFile, context_length: int, packing: Packing = "windows") -> int:
    """Sequences in one pass over a token file."""
    return _examples_of(token_file, context_length, packing).count


def make_loader(
    token_file: TokenFile,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    shuffle: bool = True,
    start_step: int = 0,
    packing: Packing = "windows",
) -> TrainLoader:
    """An endless iterator of training batches over `token_file`; see `TrainLoader`.

    Raises JslmError: fewer than 2 tokens, or a batch_size (sequences, over all processes) that process_count does not
    divide. Warns where the corpus is shorter than one context.
    """
    return TrainLoader(
        token_file,
        context_length=context_length,
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        shuffle=shuffle,
        start_step=start_step,
        packing=packing,
    )


class TrainLoader(Iterator[Batch]):
    """Batches of contiguous windows or of packed documents (see `PackedDocuments`), as a pure function of (seed, step).

    A window's inputs are consecutive tokens and its targets the same shifted by one; every token but the first is a
    target exactly once an epoch. Each epoch cuts the text at places of its own: the first window's length is drawn so
    that the number of windows stays the same, and the first and last are padded (inputs 0, targets -1). Row r of the
    global batch at step s is example s*batch_size + r of an endless stream of epochs, each in an order of its own;
    batches run across the ends of epochs. Process p takes the p-th contiguous block of rows, so the global batch is the
    same however many processes there are.

    `step` is the step of the batch that `next` returns. Call `close` to stop the prefetching thread.
    """

    def __init__(
        self,
        token_file: TokenFile,
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        process_index: int,
        process_count: int,
        shuffle: bool,
        start_step: int,
        packing: Packing,
    ) -> None:
        self._windows = _examples_of(token_file, context_length, packing)
        if self._windows.count == 0:
            raise JslmError(
                f"{token_file.path}: {len(token_file.tokens)} token(s); training needs at least 2: give more text"
            )
        if packing == "windows" and len(token_file.tokens) <= context_length:
            log.warning(
                "%s: %s tokens are fewer than one context of %s; every sequence is the whole text and padding "
                "(lower model.context_length or give more text)",
                token_file.path,
                f"{len(token_file.tokens):,}",
                f"{context_length:,}",
            )
        self._rows = _process_rows(batch_size, process_index, process_count)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.step = start_step
        self._iterator: grain.DatasetIterator[Batch] | None = None
        self._block = functools.lru_cache(maxsize=4)(self._compute_block)

    @property
    def examples_per_epoch(self) -> int:
        """Windows, or rows of packed documents, in the corpus."""
        return self._windows.count

    @property
    def steps_per_epoch(self) -> float:
        """Batches that make one pass over the corpus; seldom a whole number."""
        return self.examples_per_epoch / self.batch_size

    def epoch_of(self, step: int) -> float:
        """Passes over the corpus completed before `step`, with the fraction."""
        return step * self.batch_size / self.examples_per_epoch

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the batch at `step`, whatever the iterator's position: int32 [rows, T] each."""
        first = step * self.batch_size
        return self._windows.gather(*self._examples(first + self._rows.start, first + self._rows.stop))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            # A step is the element: grain prefetches and orders, and each element is one vectorised gather.
            steps: grain.MapDataset[int] = grain.MapDataset.range(self.step, sys.maxsize)
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
            self._iterator = iter(steps.map(self.batch_at).to_iter_dataset(options))
        batch = next(self._iterator)
        self.step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position as JSON-able values; the same for every process."""
        return {
            "step": self.step,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "examples_per_epoch": self.examples_per_epoch,
            "context_length": self._windows.length,
            "batch_size": self.batch_size,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken: the next batch is the one that would have come there.

        A position is a number of sequences. With another batch_size than the state's, the same sequences follow, and
        `step` becomes the sequences seen over the new batch_size; raises JslmError where that is not a whole number.
        Also raises it where the seed, the corpus or the context length differ, as the order would be another.
        """
        for key, ours in self.get_state().items():
            if key not in state:
                raise JslmError(f"data position in the checkpoint: no {key!r} among {sorted(state)}; it is damaged")
            if key not in ("step", "batch_size") and state[key] != ours:
                raise JslmError(
                    f"data position in the checkpoint: {key} = {state[key]}, but this run has {ours}; resume with the "
                    "same seed, data and model.context_length, or start a new run_dir with train.init_from"
                )
        seen = state["step"] * state["batch_size"]
        step, rest = divmod(seen, self.batch_size)
        if rest:
            raise JslmError(
                f"train.batch_size = {self.batch_size} does not divide the {seen:,} sequences seen so far (in batches "
                f"of {state['batch_size']}); resume with a batch size that does, so that none is repeated or skipped"
            )
        self.close()
        self.step = step

    def close(self) -> None:
        """Stops the prefetching thread; `next` starts it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _examples(self, start: int, stop: int) -> Int64[np.ndarray, "2 rows"]:
        blocks = [self._block(number) for number in range(start // _BLOCK, (stop - 1) // _BLOCK + 1)]
        first = start - start // _BLOCK * _BLOCK
        return np.concatenate(blocks, axis=1)[:, first : first + stop - start]

    def _compute_block(self, number: int) -> Int64[np.ndarray, "2 block"]:
        """Example numbers and their epochs' first lengths."""
        start, stop, size = number * _BLOCK, (number + 1) * _BLOCK, self.examples_per_epoch
        positions = np.arange(start, stop)
        shortest, longest = self._windows.first_lengths
        if not self.shuffle:
            return np.stack([positions % size, np.full_like(positions, longest)])
        first = shortest + epoch_draws(positions // size, longest - shortest + 1, self.seed)
        return np.stack([shuffled_order(start, stop, size, self.seed), first])


def eval_batches(
    token_file: TokenFile,
    context_length: int,
    batch_size: int,
    max_batches: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    packing: Packing = "windows",
) -> Iterator[Batch]:
    """This process's rows of each validation batch: int32 [batch_size / process_count, T], in the text's order.

    Every token but the first is a target exactly once (of packed documents, the first too). The last batch is filled up
    with rows of targets -1, so all batches have one shape. With max_batches > 0 and more windows than they hold, evenly
    spaced windows are taken, the same at each call. A split of fewer than 2 tokens (data.validation_fraction = 0) gives
    no batch at all.

    Raises JslmError where process_count does not divide batch_size.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    windows = _examples_of(token_file, context_length, packing)
    chosen = np.arange(windows.count)
    limit = max_batches * batch_size
    if 0 < limit < windows.count:
        chosen = np.arange(limit) * windows.count // limit
    return _sequential(windows, chosen, batch_size, rows)


def _sequential(
    windows: _Windows | PackedDocuments, chosen: Int64[np.ndarray, " windows"], batch_size: int, rows: slice
) -> Iterator[Batch]:
    for start in range(0, len(chosen), batch_size):
        batch = np.full(batch_size, _NO_WINDOW)
        present = chosen[start : start + batch_size]
        batch[: len(present)] = present
        yield windows.gather(batch[rows], np.full(rows.stop - rows.start, windows.length))


def _examples_of(token_file: TokenFile, length: int, packing: Packing) -> _Windows | PackedDocuments:
    return PackedDocuments(token_file, length) if packing == "documents" else _Windows(token_file, length)


class _Windows:
    """A token stream as windows of `length` inputs and targets, the first of which may be shorter."""

    def __init__(self, token_file: TokenFile, length: int) -> None:
        # A plain view: indexing through np.memmap's subclass machinery is several times slower.
        self._tokens = np.asarray(token_file.tokens)
        self.length = length
        self._targets = max(0, len(self._tokens) - 1)
        self.count = -(-self._targets // length)

    @property
    def first_lengths(self) -> tuple[int, int]:
        """The shortest and longest first window that leaves their number as it is."""
        return self._targets % self.length or self.length, self.length

    def gather(self, windows: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"]) -> Batch:
        """Windows by number, where the text is cut so that window 0 has `first` targets."""
        starts = np.where(windows == 0, 0, first + (windows - 1) * self.length)
        sizes = np.minimum(np.where(windows == 0, first, self.length), self._targets - starts)
        sizes[windows == _NO_WINDOW] = 0
        places = starts[:, None] + np.arange(self.length + 1)
        text = self._tokens[np.clip(places, 0, self._targets)].astype(np.int32)
        padding = np.arange(self.length) >= sizes[:, None]
        inputs, targets = text[:, :-1].copy(), text[:, 1:].copy()
        inputs[padding], targets[padding] = 0, NO_TARGET
        return {"inputs": inputs, "targets": targets}


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise JslmError(
            f"a batch of {batch_size} sequences can't be shared by {process_count} processes; "
            f"make train.batch_size and train.eval_batch_size multiples of {process_count}"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)
