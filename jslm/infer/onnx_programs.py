"""`Programs` by onnxruntime: a session computes logits, and the functions of `samplers` choose tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.formats.onnx import OnnxDecoder, OwnDecoder
from jslm.infer.programs import DISPATCH_TOKENS
from jslm.infer.request import TOP_TOKENS
from jslm.infer.samplers import Features, Sampling, choose_tokens
from jslm.infer.state import Pieces, Scores, Settings, Written

_T = TypeVar("_T")


@dataclass
class Part:
    """Rows that were read together, and are computed together: `slots` says which of the group they are.

    `cache` is the decoder's.
    """

    slots: list[int]
    cache: Any
    logits: Float[np.ndarray, "rows vocab"]
    position: Int[np.ndarray, " rows"]
    left: Int[np.ndarray, " rows"]
    written: Int[np.ndarray, " rows"]
    seen: Bool[np.ndarray, "rows vocab"] | None
    counts: Int[np.ndarray, "rows vocab"] | None
    settings: Settings


@dataclass
class Slots:
    """Some slots, and what stands in them."""

    slots: int
    parts: list[Part]


class OnnxPrograms:
    """A session of onnxruntime as the programs of a `LanguageModel`; on the CPU."""

    def __init__(self, decoder: OnnxDecoder | OwnDecoder, config: ModelConfig) -> None:
        """`config` is that of the model in the graph."""
        self.decoder: Any = decoder
        self.config = config
        names = [condition.name for condition in config.conditions]
        # What a call can still choose; the others are built in, and `load` has told the model so.
        self._open = [names.index(name) for name in decoder.open_conditions]

    @property
    def kind(self) -> str:
        """The type that the matrices are held in, and what computes."""
        return f"{self.decoder.kind} ({self.decoder.runtime})"

    @property
    def rows_together(self) -> int:
        """Each slot of a server is computed by itself."""
        return 64

    def run(self, program: Callable[..., _T], *arguments: Any, **static: Any) -> _T:
        """There are no weights for it: raises JslmError."""
        raise JslmError("this model is run by onnxruntime, which has no beam search; open its run folder for that")

    def empty(self, slots: int) -> Slots:
        """A group of free slots."""
        return Slots(slots, [])

    def start(self, pieces: Pieces, slots: int) -> Slots:
        """A new group whose rows are these prompts, read whole; caches grow as they must."""
        labels = self._labels(pieces.settings)
        cache, logits = self.decoder.prefill(pieces.tokens, pieces.length, labels)
        rows = len(logits)
        return Slots(rows, [_part(list(range(rows)), cache, logits, pieces)])

    def read(self, state: Slots, slot: int, piece: Pieces, *, scored: bool = False) -> tuple[Slots, Scores | None]:
        """The group with one row's next piece in `slot`, and its scores where asked for."""
        start, length = int(piece.start[0]), int(piece.length[0])
        tokens = np.asarray(piece.tokens)[:, :length]
        labels = self._labels(piece.settings)
        before = [part for part in state.parts if part.slots == [slot]]
        others = [part for part in state.parts if slot not in part.slots]
        scores, cache = None, before[0].cache if start else None
        if scored:
            cache, every = self.decoder.read_all(tokens, cache, piece.start, labels)
            scores = _scores(every, np.asarray(piece.targets)[:, :length], np.asarray(piece.targets).shape[1])
            logits = every[:, -1]
        elif cache is None:
            cache, logits = self.decoder.prefill(tokens, [length], labels)
        else:
            cache, logits = self.decoder.read(tokens, [length], cache, piece.start, labels)
        return Slots(state.slots, [*others, _part([slot], cache, logits, piece)]), scores

    def write(
        self,
        state: Slots,
        alive: Bool[np.ndarray, " slots"],
        count: int,
        end_of_text: int,
        *,
        features: Features,
        dispatch: int = DISPATCH_TOKENS,
    ) -> tuple[Slots, Written]:
        """The group with up to `count` more tokens of each row that is `alive`, and these."""
        top = min(TOP_TOKENS, self.config.vocab_size) if features.tops else 0
        out = Written(
            *cast(
                tuple[Array, Array, Array, Array],
                (
                    np.zeros((state.slots, count), np.int32),
                    np.zeros((state.slots, count), np.float32),
                    np.zeros((state.slots, count, top), np.int32),
                    np.zeros((state.slots, count, top), np.float32),
                ),
            )
        )
        for part in state.parts:
            part.left = np.where(alive[part.slots], part.left, 0).astype(np.int32)
            labels = self._labels(part.settings)
            for index in range(count):
                active = part.left > 0
                if not active.any():
                    break
                key, sampling = part.settings.key, part.settings.sampling
                if features.draws or features.penalises or top:
                    found = _choose(
                        part.logits, part.written, key, sampling, part.seen, part.counts, active,
                        features=features, top=top,
                    )  # fmt: skip
                else:
                    found = _likeliest(part.logits)
                tokens, *rest = (np.asarray(array) for array in found)
                for array, values in zip(out, (tokens, *rest), strict=False):
                    cast(np.ndarray, array)[part.slots, index] = values
                part.left = np.where(tokens == end_of_text, 0, np.maximum(part.left - 1, 0)).astype(np.int32)
                part.cache, part.logits = self.decoder.step(tokens, part.cache, part.position, labels)
                # A row that has ended stays where it is: its position must not run out of the context.
                part.position = part.position + (part.left > 0)
                part.written = part.written + active
                if part.seen is not None and part.counts is not None:
                    rows = np.arange(len(tokens))
                    part.seen[rows, tokens] |= active
                    part.counts[rows, tokens] += active
        return state, out

    def logits(
        self, tokens: Int[np.ndarray, "batch length"], labels: Int[np.ndarray, "batch kinds"]
    ) -> Float[Array, "batch length vocab"]:
        """float32 logits at every position."""
        return cast(Array, self.decoder.logits(tokens, labels[:, self._open] if self._open else None))

    def score(
        self, tokens: Int[np.ndarray, "batch length"], targets: Int[np.ndarray, "batch length"]
    ) -> tuple[Float[Array, "batch length"], Bool[Array, "batch length"]]:
        """Natural log-probability of each target after the tokens up to its place, and whether it is the likeliest."""
        logits = self.decoder.logits(tokens)
        chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        top = logits.max(axis=-1)
        # The largest logit goes first, as in jslm.model.loss: the small losses of sure tokens keep their digits.
        rest = np.log(np.exp(logits - top[..., None]).sum(axis=-1))
        return cast(Any, ((chosen - top) - rest, logits.argmax(axis=-1) == targets))

    def _labels(self, settings: Settings) -> Int[np.ndarray, "rows open"] | None:
        return np.asarray(settings.labels)[:, self._open] if self._open else None


def _part(slots: list[int], cache: Any, logits: np.ndarray, pieces: Pieces) -> Part:
    counts = pieces.counts
    if counts is None and pieces.seen is not None:
        counts = cast(Any, np.zeros(pieces.seen.shape, np.int32))
    return Part(
        slots,
        cache,
        logits,
        np.asarray(pieces.start) + np.asarray(pieces.length),
        np.array(pieces.left),
        np.array(pieces.written),
        None if pieces.seen is None else np.array(pieces.seen),
        None if counts is None else np.array(counts),
        pieces.settings,
    )


def _scores(logits: np.ndarray, targets: np.ndarray, length: int) -> Scores:
    """Of a piece of one row, padded to `length`."""
    logprobs = logits - logits.max(axis=-1, keepdims=True)
    logprobs = logprobs - np.log(np.exp(logprobs).sum(axis=-1, keepdims=True))
    top = np.argsort(-logprobs, axis=-1, kind="stable")[..., : min(TOP_TOKENS, logprobs.shape[-1])].astype(np.int32)
    found = (
        np.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], top, np.take_along_axis(logprobs, top, -1)
    )  # fmt: skip
    padded = (np.pad(array, [(0, 0), (0, length - array.shape[1])] + [(0, 0)] * (array.ndim - 2)) for array in found)
    return Scores(*cast(tuple[Array, Array, Array], tuple(padded)))


def _likeliest(logits: Float[np.ndarray, "rows vocab"]) -> tuple[Any, Any]:
    """What `_choose` gives where no row asks for anything, without calling a compiled program for it."""
    tokens = logits.argmax(axis=-1)
    shares = logits - logits[np.arange(len(logits)), tokens][:, None]
    np.exp(shares, out=shares)
    return tokens.astype(np.int32), -np.log(shares.sum(axis=-1))


@functools.partial(jax.jit, static_argnames=("features", "top"))
def _choose(
    logits: Float[Array, "rows vocab"],
    written: Int[Array, " rows"],
    key: Key[Array, " rows"],
    sampling: Sampling,
    seen: Bool[Array, "rows vocab"] | None,
    counts: Int[Array, "rows vocab"] | None,
    active: Bool[Array, " rows"],
    *,
    features: Features,
    top: int,
) -> tuple[Array, Array, Array, Array]:
    """Tokens, their log-probabilities, and the likeliest with theirs."""
    keys = jax.vmap(jax.random.fold_in)(key, written) if features.draws else key
    tokens = choose_tokens(logits, keys, sampling, seen, counts, active, features)
    logprobs = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    values, ids = jax.lax.top_k(logprobs, top)
    return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0], ids.astype(jnp.int32), values
