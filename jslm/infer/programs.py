"""The two compiled programs of all decoding: `read` a piece of prompts, and `write` tokens of every row of a group.

A group is some rows ("slots") that decode together. `JaxPrograms` binds both to a model's weights; who writes or
scores (`LanguageModel`, the server's groups, beams, drafts, evaluation) is a client of `Programs`. What a row computes
does not depend on who shares its group: a server's prompt is read alone, in pieces whose lengths follow from its own,
and a group always decodes at its full width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jslm.config import ModelConfig
from jslm.infer.request import TOP_TOKENS
from jslm.infer.samplers import Features, Sampling, choose_tokens
from jslm.infer.scores import all_logits, token_scores
from jslm.infer.state import Pieces, Scores, Settings, State, Written, labels_of
from jslm.model import (
    Params,
    apply_cached,
    decoding_kernels,
    decoding_params,
    init_cache,
    logits_from_hidden,
)
from jslm.model.keys import make_key

# Tokens that one dispatch of `write` can give; it is told how many.
DISPATCH_TOKENS = 256
_T = TypeVar("_T")


class Programs(Protocol):
    """What writes and scores for a `LanguageModel`. A `state` that is given to `read` or `write` is gone."""

    def empty(self, slots: int) -> Any:
        """A group of `slots` free slots, each with a cache of the whole context."""
        ...

    def start(self, pieces: Pieces, slots: int) -> Any:
        """A new group whose rows are these prompts, read whole, each with a cache of `slots` tokens."""
        ...

    def read(self, state: Any, slot: int, piece: Pieces, *, scored: bool = False) -> tuple[Any, Scores | None]:
        """The group with one row's next piece in `slot`, and its scores where asked for."""
        ...

    def write(
        self,
        state: Any,
        alive: Bool[np.ndarray, " slots"],
        count: int,
        end_of_text: int,
        *,
        features: Features,
        dispatch: int = DISPATCH_TOKENS,
    ) -> tuple[Any, Written]:
        """The group with up to `count` more tokens of each row that is `alive`, and these."""
        ...

    def logits(
        self, tokens: Int[np.ndarray, "batch length"], labels: Int[np.ndarray, "batch kinds"]
    ) -> Float[Array, "batch length vocab"]:
        """float32 logits at every position."""
        ...

    def score(
        self, tokens: Int[np.ndarray, "batch length"], targets: Int[np.ndarray, "batch length"]
    ) -> tuple[Float[Array, "batch length"], Bool[Array, "batch length"]]:
        """Natural log-probability of each target after the tokens up to its place, and whether it is the likeliest."""
        ...

    @property
    def kind(self) -> str:
        """The number type that it computes in, in a word or two."""
        ...

    @property
    def rows_together(self) -> int:
        """Rows of a server that decode together at most: a group always computes at its full width."""
        ...

    def run(self, program: Callable[..., _T], *arguments: Any, **static: Any) -> _T:
        """`program(weights, *arguments, config=, dtype=, **static)`, where the weights are: for a way of decoding of
        its own, which is a jitted function over a `State`. Raises JslmError where no weights are at hand for it."""
        ...


def cast_params(params: Params, dtype: jnp.dtype) -> Params:
    """The weights as the products use them, cast once and not at each token. Norms compute in float32 and stay so."""
    if dtype == jnp.float32:
        return params

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

    found: Params = jax.tree_util.tree_map_with_path(cast, params)
    return found


class JaxPrograms:
    """A model's weights with the compiled programs that run on them, on one device."""

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        dtype: jnp.dtype,
        mesh: jax.sharding.Mesh,
        drafting_dtype: jnp.dtype | None = None,
    ) -> None:
        """`params` with the layers unstacked, on `mesh`; they are cast to `dtype`, that of the computation, by
        `drafting` to another."""
        with jax.set_mesh(mesh):
            self.params = cast_params(params, dtype)
            self.weights = decoding_params(self.params, config, dtype)
        self.config = config
        self.dtype = dtype
        self.mesh = mesh
        self._drafting_dtype = drafting_dtype or dtype
        # (rows, cache slots, guesses) that prompt lookup has compiled its loop for.
        self.drafted: set[tuple[int, int, int]] = set()

    @functools.cached_property
    def drafting(self) -> JaxPrograms:
        """Those for several tokens of a row at once, whose weights may have another type: these, or a second set."""
        if self._drafting_dtype == self.dtype:
            return self
        return JaxPrograms(self.params, self.config, self._drafting_dtype, self.mesh)

    @property
    def kind(self) -> str:
        """See `Programs.kind`."""
        drafting = self._drafting_dtype
        return str(self.dtype) if drafting == self.dtype else f"{self.dtype}, rewriting in {drafting}"

    @property
    def rows_together(self) -> int:
        """See `Programs.rows_together`."""
        return decoding_kernels(self.config, self.dtype, platform=self.mesh.devices.flat[0].platform).rows_together

    def run(self, program: Callable[..., _T], *arguments: Any, **static: Any) -> _T:
        """See `Programs.run`."""
        with jax.set_mesh(self.mesh):
            return program(self.weights, *arguments, config=self.config, dtype=self.dtype, **static)

    def empty(self, slots: int) -> State:
        """A group of `slots` free slots, each with a cache of the whole context."""
        with jax.set_mesh(self.mesh):
            return empty_state(slots=slots, config=self.config, dtype=self.dtype)

    def start(self, pieces: Pieces, slots: int) -> State:
        """A new group whose rows are these prompts, read whole, each with a cache of `slots` tokens."""
        return self.run(read, None, None, pieces, slots=slots, scored=False)[0]

    def read(self, state: State, slot: int, piece: Pieces, *, scored: bool = False) -> tuple[State, Scores | None]:
        """The group with one row's next piece in `slot` (the state given is gone), and its scores where asked for."""
        return self.run(read, state, np.int32(slot), piece, slots=0, scored=scored)

    def write(
        self,
        state: State,
        alive: Bool[np.ndarray, " slots"],
        count: int,
        end_of_text: int,
        *,
        features: Features,
        dispatch: int = DISPATCH_TOKENS,
    ) -> tuple[State, Written]:
        """The group with up to `count` more tokens of each row that is `alive` (the state given is gone), and these."""
        numbers = (np.int32(count), np.int32(end_of_text))
        return self.run(write, state, alive, *numbers, features=features, dispatch=dispatch)

    def logits(
        self, tokens: Int[np.ndarray, "batch length"], labels: Int[np.ndarray, "batch kinds"]
    ) -> Float[Array, "batch length vocab"]:
        """float32 logits at every position, by the forward pass that training uses."""
        return self.run(all_logits, tokens, labels)

    def score(
        self, tokens: Int[np.ndarray, "batch length"], targets: Int[np.ndarray, "batch length"]
    ) -> tuple[Float[Array, "batch length"], Bool[Array, "batch length"]]:
        """Natural log-probability of each target after the tokens up to its place, and whether it is the likeliest."""
        with jax.set_mesh(self.mesh):
            return token_scores(self.params, tokens, targets, config=self.config, dtype=self.dtype)


@functools.partial(jax.jit, static_argnames=("slots", "config", "dtype"))
def empty_state(*, slots: int, config: ModelConfig, dtype: jnp.dtype) -> State:
    """A group of `slots` free slots, each with a cache of the whole context."""
    ints = jnp.zeros(slots, jnp.int32)
    settings = Settings(
        Sampling.none(slots),
        jax.random.split(make_key(0), slots),
        jnp.zeros(slots, bool),
        jnp.full((slots, len(config.conditions)), -1, jnp.int32),
    )
    return State(
        cache=init_cache(config, slots, config.context_length, dtype),
        logits=jnp.zeros((slots, config.vocab_size), jnp.float32),
        position=ints,
        left=ints,
        written=ints,
        seen=jnp.zeros((slots, config.vocab_size), bool),
        counts=jnp.zeros((slots, config.vocab_size), jnp.int32),
        settings=settings,
    )


@functools.partial(jax.jit, static_argnames=("slots", "scored", "config", "dtype"), donate_argnames=("state",))
def read(
    params: Params,
    state: State | None,
    slot: Int[Array, ""] | None,
    pieces: Pieces,
    *,
    slots: int,
    scored: bool,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[State, Scores | None]:
    """`pieces` into a new group, with `slots` cache places a row; or one row's piece into `slot` of `state`.

    Until a prompt's last piece is read, the group's decoding leaves a token of nothing at the row's position, which
    the next piece overwrites.
    """
    rows, length = pieces.tokens.shape
    if state is None or slot is None:
        cache = init_cache(config, rows, slots, dtype)
    else:
        cache = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, slot, 1), state.cache)
    positions = pieces.start[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
    kernels = decoding_kernels(config, dtype)
    labels = labels_of(pieces.settings)
    hidden, cache = apply_cached(
        params, pieces.tokens, positions, cache, config, dtype, conditions=labels, kernels=kernels
    )
    last = jnp.take_along_axis(hidden, (pieces.length - 1)[:, None, None], axis=1)
    scores = None
    if scored:
        assert pieces.targets is not None
        logprobs = jax.nn.log_softmax(logits_from_hidden(params, hidden, config, kernels))
        targets = jnp.take_along_axis(logprobs, pieces.targets[..., None], axis=-1)[..., 0]
        top_logprobs, top_tokens = _top(logprobs)
        scores = Scores(targets, top_tokens, top_logprobs)
    counts = pieces.counts
    if counts is None and pieces.seen is not None:
        counts = jnp.zeros((rows, config.vocab_size), jnp.int32)
    joined = State(
        cache=cache,
        logits=logits_from_hidden(params, last, config, kernels)[:, 0],
        position=pieces.start + pieces.length,
        left=pieces.left,
        written=pieces.written,
        seen=pieces.seen,
        counts=counts,
        settings=pieces.settings,
    )
    if state is None or slot is None:
        return joined, scores
    update = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda leaf, row: update(leaf, row, slot, 0), state, joined), scores


@functools.partial(jax.jit, static_argnames=("features", "dispatch", "config", "dtype"), donate_argnames=("state",))
def write(
    params: Params,
    state: State,
    alive: Bool[Array, " slots"],
    count: Int[Array, ""],
    end_of_text: Int[Array, ""],
    *,
    features: Features,
    dispatch: int,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[State, Written]:
    """`count` more tokens of each row (`dispatch` at most), fewer where all rows end before.

    Rows that are not `alive` end at once; others after their end-of-text token or what is `left` of them. A token's
    randomness depends on its row's key and its own index in the row. `features` is what any row may use. Rows that have
    not ended need a place in the cache for each token.
    """
    slots = alive.shape[0]
    rows = jnp.arange(slots)
    kernels = decoding_kernels(config, dtype)
    settings, labels = state.settings, labels_of(state.settings)
    top = min(TOP_TOKENS, config.vocab_size) if features.tops else 0
    empty = Written(
        jnp.zeros((slots, dispatch), jnp.int32),
        jnp.zeros((slots, dispatch), jnp.float32),
        jnp.zeros((slots, dispatch, top), jnp.int32),
        jnp.zeros((slots, dispatch, top), jnp.float32),
    )

    def unfinished(carry: tuple[Array, State, Written]) -> Array:
        index, state, _ = carry
        return (index < count) & jnp.any(state.left > 0)

    def write_one(carry: tuple[Array, State, Written]) -> tuple[Array, State, Written]:
        index, state, out = carry
        active = state.left > 0
        keys = jax.vmap(jax.random.fold_in)(settings.key, state.written) if features.draws else settings.key
        tokens = choose_tokens(state.logits, keys, settings.sampling, state.seen, state.counts, active, features)
        normaliser = jax.nn.logsumexp(state.logits, axis=-1, keepdims=True)
        logprobs = jnp.take_along_axis(state.logits, tokens[:, None], axis=1) - normaliser
        out = Written(
            jax.lax.dynamic_update_slice(out.tokens, tokens[:, None], (0, index)),
            jax.lax.dynamic_update_slice(out.logprobs, logprobs, (0, index)),
            *(_write_top(state, normaliser, active, out, index) if top else (out.top_tokens, out.top_logprobs)),
        )
        left = jnp.where(tokens == end_of_text, 0, jnp.maximum(state.left - 1, 0))
        positions = state.position[:, None]
        hidden, cache = apply_cached(
            params, tokens[:, None], positions, state.cache, config, dtype, conditions=labels, kernels=kernels
        )
        seen, counts = state.seen, state.counts
        if seen is not None and counts is not None:
            seen = seen.at[rows, tokens].max(active)
            counts = counts.at[rows, tokens].add(active.astype(jnp.int32))
        state = State(
            cache=cache,
            logits=logits_from_hidden(params, hidden, config, kernels)[:, 0],
            # A row that has ended stays where it is: its position must not run out of the cache.
            position=state.position + (left > 0),
            left=left,
            written=state.written + active,
            seen=seen,
            counts=counts,
            settings=state.settings,
        )
        return index + 1, state, out

    state = state._replace(left=jnp.where(alive, state.left, 0))
    _, state, written = jax.lax.while_loop(unfinished, write_one, (jnp.int32(0), state, empty))
    return state, written


def _write_top(
    state: State, normaliser: Array, active: Array, out: Written, index: Array
) -> tuple[Int[Array, "slots dispatch top"], Float[Array, "slots dispatch top"]]:
    def tell() -> tuple[Array, Array]:
        logprobs, tokens = _top(state.logits - normaliser)
        return (
            jax.lax.dynamic_update_slice(out.top_tokens, tokens[:, None], (0, index, 0)),
            jax.lax.dynamic_update_slice(out.top_logprobs, logprobs[:, None], (0, index, 0)),
        )

    wanted = jnp.any(active & state.settings.wants_top)
    tokens, logprobs = jax.lax.cond(wanted, tell, lambda: (out.top_tokens, out.top_logprobs))
    return tokens, logprobs


def _top(logprobs: Float[Array, "*rows vocab"]) -> tuple[Float[Array, "*rows top"], Int[Array, "*rows top"]]:
    """The likeliest tokens, likeliest first."""
    values, tokens = jax.lax.top_k(logprobs, min(TOP_TOKENS, logprobs.shape[-1]))
    return values, tokens.astype(jnp.int32)
