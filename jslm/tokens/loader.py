"""Token files -> batches: a pure function of (seed, step), prefetched in the background. Alone in importing grain."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import grain
import numpy as np
from jaxtyping import Int64

from jslm.config import ConditionConfig
from jslm.errors import JslmError
from jslm.tokens.course import Course
from jslm.tokens.example_tokens import ExampleTokens, mean_tokens
from jslm.tokens.examples import Batch, Chain, Examples, Packing, batch_names, gather_rows, open_examples, packing_of
from jslm.tokens.mixture import BLOCK, Mixture
from jslm.tokens.preferences import REJECTED, PreferencePairs
from jslm.tokens.taught import Columns, TaughtExamples, open_places
from jslm.tokens.token_file import TokenFile

__all__ = [
    "Batch",
    "Packing",
    "TrainLoader",
    "batch_names",
    "count_examples",
    "count_tokens",
    "eval_batches",
    "packing_of",
]

log = logging.getLogger("jslm")

_NO_WINDOW = -1
_PREFETCH = 4
# Not in the positions that were saved before these settings existed; what they change shows in the others too.
_NEWER_KEYS = ("packing", "stride", "weights", "data", "examples", "changes")
# Where the run stands; all other keys say which examples come in which order.
_PLACE_KEYS = ("step", "examples", "batch_size", "changes")


def count_examples(
    token_files: TokenFile | Sequence[TokenFile], context_length: int, packing: Packing = "windows", stride: int = 0
) -> int:
    """Sequences in one pass over a token file, or over each of several."""
    return sum(part.count for part in _open_all(token_files, context_length, packing, stride))


def count_tokens(
    token_files: TokenFile | Sequence[TokenFile],
    context_length: int,
    packing: Packing = "windows",
    stride: int = 0,
    weights: Sequence[float] = (),
) -> ExampleTokens:
    """What a sequence holds on average, of one token file or of a mixture by `weights` (all alike where empty)."""
    parts = [part.tokens for part in _open_all(token_files, context_length, packing, stride)]
    return mean_tokens(parts, weights or [1.0] * len(parts))


class TrainLoader(Iterator[Batch]):
    """Batches of windows or of packed documents, from one corpus or a mixture, as a pure function of (seed, step); an
    endless iterator of them.

    Row r of the global batch at step s is sequence s*batch_size + r of an endless stream (after a change of the batch
    size: see `Course`); each corpus gives all its sequences once before any comes again (see `Mixture`), and batches
    run across the ends of epochs. `tokens` says how full they are on average. Process p takes the p-th contiguous
    block of rows, so the global batch is the same however many processes there are.

    A window's inputs are consecutive tokens and its targets the same shifted by one; every token but the first is a
    target exactly once an epoch (more often where they overlap, see `Windows`). Each epoch cuts the text at places of
    its own: the first window's length is drawn so that the number of windows stays the same. Documents: see
    `PackedDocuments`.

    In a stage of shorter context, the same sequences are cut: `[rows, length]` becomes `[rows * length / context,
    context]`. So a step has the same tokens in every stage, and no token is lost or seen twice where stages meet.

    `step` is the step of the batch that `next` returns. Call `close` to stop the prefetching thread. `stages` may be
    set anew before the first batch.
    """

    def __init__(
        self,
        token_files: TokenFile | Sequence[TokenFile],
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
        start_step: int = 0,
        packing: Packing = "windows",
        stride: int = 0,
        weights: Sequence[float] = (),
        stages: Sequence[tuple[int, int]] = (),
        conditions: Sequence[ConditionConfig] = (),
    ) -> None:
        """Over one token file, or several by `weights` (all alike where empty); `batch_size` is that of all processes.

        `stride` (0: `context_length`) lets windows overlap. `stages` are (context, steps): in batches before that many
        steps, each sequence is cut in pieces of `context` tokens. `conditions` are the model's.

        Raises JslmError: fewer than 2 tokens, a batch_size that process_count does not divide, prompt/completion pairs
        cut in windows or in stages. Warns where a corpus is shorter than one context.
        """
        files = _listed(token_files)
        self._examples = _open_all(files, context_length, packing, stride, conditions)
        for file, part in zip(files, self._examples, strict=True):
            _check_corpus(file, part, packing, bool(stages))
        self._cut: tuple[Packing, int] = (packing, stride)
        self._rows = _process_rows(batch_size, process_index, process_count)
        self._length = context_length
        weights = weights or [1.0] * len(files)
        self._settings = {
            "packing": packing,
            "stride": stride or context_length,
            "weights": [weight / sum(weights) for weight in weights],
            "data": [_digest(file) for file in files],
        }
        self.stages = tuple(stages)
        self.course = Course(batch_size)
        self.seed = seed
        self.shuffle = shuffle
        self.step = start_step
        self._iterator: grain.DatasetIterator[Batch] | None = None
        self.tokens = mean_tokens([part.tokens for part in self._examples], weights)
        self._mixture = Mixture(self._examples, weights, seed, shuffle)
        self._block = functools.lru_cache(maxsize=4)(self._mixture.block)

    @property
    def examples_per_epoch(self) -> int:
        """Windows, or rows of packed documents, in the corpus; of a mixture, in all corpora together."""
        return sum(part.count for part in self._examples)

    @property
    def batch_size(self) -> int:
        """Sequences a step, over all processes."""
        return self.course.batch_size

    @property
    def steps_per_epoch(self) -> float:
        """Batches that make one pass over the corpus; seldom a whole number."""
        return self.examples_per_epoch / self.batch_size

    def epoch_of(self, step: int) -> float:
        """Passes over the corpus completed before `step`, with the fraction; of a mixture, as if weights were sizes."""
        return self.course.examples_before(step) / self.examples_per_epoch

    def context_at(self, step: int) -> int:
        """Tokens of each row of the batch at `step`."""
        return next((context for context, steps in self.stages if step < steps), self._length)

    def examples_by_context(self, step: int) -> dict[int, int]:
        """Sequences before `step`, by the context that they were cut to."""
        found, start = {}, 0
        for context, steps in (*self.stages, (self._length, step)):
            if start < (stop := min(steps, step)):
                found[context] = self.course.examples_before(stop) - self.course.examples_before(start)
                start = stop
        return found

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the batch at `step`, whatever the iterator's position: int32 [rows, T] each."""
        first = self.course.examples_before(step)
        batch = gather_rows(self._examples, *self._sequences(first + self._rows.start, first + self._rows.stop))
        context = self.context_at(step)
        if context == self._length:
            return batch
        return {name: rows.reshape(-1, context, *rows.shape[2:]) for name, rows in batch.items()}

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
            **self.course.to_state(self.step),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "examples_per_epoch": self.examples_per_epoch,
            "context_length": self._length,
            **self._settings,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken: the next batch begins with the sequence that would have come there.

        A position is a number of sequences: with another batch_size than the state's, steps go on being counted from
        the state's, and take the new number of sequences each. States of before positions were kept so need the run's
        own step as `run_step`, see `Course`. Raises JslmError where the seed, the corpora, their weights or the way
        they are cut differ, as the order would be another. Stages may differ: they change no order.
        """
        for key, ours in self.get_state().items():
            if key in _NEWER_KEYS and key not in state:
                continue
            if key not in state:
                raise JslmError(f"data position in the checkpoint: no {key!r} among {sorted(state)}; it is damaged")
            if key not in _PLACE_KEYS and state[key] != ours:
                raise JslmError(
                    f"data position in the checkpoint: {key} = {state[key]}, but this run has {ours}; resume with the "
                    "same seed, data section and model.context_length, or start a new run_dir with train.init_from"
                )
        course, step = Course.from_state(state)
        self.close()
        self.course, self.step = course.with_batch_size(self.batch_size, step), step

    def set_references(self, references: Sequence[np.ndarray]) -> None:
        """Of preferences: the reference model's log-probabilities, an array a corpus (see `PreferencePairs`)."""
        for part, reference in zip(self._examples, references, strict=True):
            assert isinstance(part, PreferencePairs)
            part.reference = reference

    def set_teachers(self, files: Sequence[TokenFile], columns: Sequence[Columns]) -> None:
        """What teachers expect in each corpus, which batches then have too (see `TaughtExamples`); `files` are those
        that the loader was made of."""
        for number, (file, found) in enumerate(zip(files, columns, strict=True)):
            places = open_places(file, self._length, *self._cut)
            self._examples[number] = TaughtExamples(self._examples[number], places, found)

    def close(self) -> None:
        """Stops the prefetching thread; `next` starts it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _sequences(self, start: int, stop: int) -> Int64[np.ndarray, "3 rows"]:
        blocks = [self._block(number) for number in range(start // BLOCK, (stop - 1) // BLOCK + 1)]
        first = start - start // BLOCK * BLOCK
        return np.concatenate(blocks, axis=1)[:, first : first + stop - start]


def eval_batches(
    token_files: TokenFile | Sequence[TokenFile],
    context_length: int,
    batch_size: int,
    max_batches: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    packing: Packing = "windows",
    conditions: Sequence[ConditionConfig] = (),
    references: Sequence[np.ndarray] = (),
) -> Iterator[Batch]:
    """This process's rows of each validation batch: int32 [batch_size / process_count, T], in the text's order.

    Several files follow each other. Every token but the first is a target exactly once (of packed documents, the first
    too; of prompt/completion pairs, those of the completions). The last batch is filled up with rows of targets -1, so
    all batches have one shape. With max_batches > 0 and more windows than they hold, evenly spaced windows are taken,
    the same at each call. A split of fewer than 2 tokens (data.validation_fraction = 0) gives no batch at all.

    Raises JslmError where process_count does not divide batch_size.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    windows = Chain(_open_all(token_files, context_length, packing, 0, conditions, references))
    chosen = np.arange(windows.count)
    limit = max_batches * batch_size
    if 0 < limit < windows.count:
        chosen = np.arange(limit) * windows.count // limit
    return _sequential(windows, chosen, batch_size, rows)


def _sequential(
    windows: Examples, chosen: Int64[np.ndarray, " windows"], batch_size: int, rows: slice
) -> Iterator[Batch]:
    for start in range(0, len(chosen), batch_size):
        batch = np.full(batch_size, _NO_WINDOW)
        present = chosen[start : start + batch_size]
        batch[: len(present)] = present
        yield windows.gather(batch[rows], np.full(rows.stop - rows.start, windows.length))


def _listed(token_files: TokenFile | Sequence[TokenFile]) -> list[TokenFile]:
    return [token_files] if isinstance(token_files, TokenFile) else list(token_files)


def _open_all(
    token_files: TokenFile | Sequence[TokenFile],
    length: int,
    packing: Packing,
    stride: int,
    conditions: Sequence[ConditionConfig] = (),
    references: Sequence[np.ndarray] = (),
) -> list[Examples]:
    files = _listed(token_files)
    known: Sequence[np.ndarray | None] = list(references) or [None] * len(files)
    return [
        open_examples(file, length, packing, stride, conditions, reference)
        for file, reference in zip(files, known, strict=True)
    ]


def _check_corpus(file: TokenFile, examples: Examples, packing: Packing, has_stages: bool) -> None:
    if examples.count == 0:
        raise JslmError(f"{file.path}: {len(file.tokens)} token(s); training needs at least 2: give more text")
    if has_stages and file.has_completions:
        raise JslmError(
            f"{file.path}: these are pairs or conversations, which train.curriculum would cut apart; leave it empty"
        )
    if packing == "windows" and len(file.tokens) <= examples.length:
        log.warning(
            "%s: %s tokens are fewer than one context of %s; every sequence is the whole text and padding "
            "(lower model.context_length or give more text)",
            file.path,
            f"{len(file.tokens):,}",
            f"{examples.length:,}",
        )


def _digest(file: TokenFile) -> str:
    """What tells one corpus from another of the same size; short, as it goes into error messages."""
    digest = str(file.meta.get(file.path.stem, {}).get("sha256", ""))[:12]
    rejected = file.meta.get(REJECTED, {}).get(file.path.stem, "")[:12]
    return f"{digest}/{rejected}" if rejected else digest


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise JslmError(
            f"a batch of {batch_size} sequences can't be shared by {process_count} processes; "
            f"make train.batch_size and train.eval_batch_size multiples of {process_count}"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)
