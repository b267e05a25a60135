"""From logits to the next token: pure functions, one row of a batch independent of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jslm.infer.request import Request
from jslm.model.keys import make_key

# Logits whose shares are summed together.
_BLOCK = 128


class Sampling(NamedTuple):
    """How a row's tokens are chosen, a column a setting, so that one compiled program serves any mix.

    A setting is a field here with its number type in `_KINDS`, a field of `Request`, and its word in `choose_tokens`.
    """

    temperature: Float[Array, "*batch"]
    top_k: Int[Array, "*batch"]
    top_p: Float[Array, "*batch"]
    min_p: Float[Array, "*batch"]
    repetition_penalty: Float[Array, "*batch"]
    presence_penalty: Float[Array, "*batch"]
    frequency_penalty: Float[Array, "*batch"]

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Sampling:
        """The columns of some requests."""
        # As numpy arrays they cost no dispatch of their own; a jitted function takes them as JAX's.
        columns = {
            name: np.array(
                [min(getattr(request, name), 2**31 - 1) for request in requests], _KINDS.get(name, np.float32)
            )
            for name in cls._fields
        }
        return cls(**cast(dict[str, Array], columns))

    @classmethod
    def none(cls, rows: int) -> Sampling:
        """That of rows that ask for nothing: greedy."""
        off = {"top_p": 1.0, "repetition_penalty": 1.0}
        return cls(**{name: jnp.full(rows, off.get(name, 0), _KINDS.get(name, np.float32)) for name in cls._fields})


_KINDS: dict[str, type[np.generic]] = {"top_k": np.int32}


class Features(NamedTuple):
    """What any row of a group may use; static, so that a group that is greedy throughout compiles to an argmax alone.

    `asks`: whether each step looks which of these its active rows do use, and skips the others; else all are computed.
    """

    draws: bool = True
    sorts: bool = True
    penalises: bool = True
    tops: bool = True
    asks: bool = True

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Features:
        """Just what these requests use."""
        return cls(
            draws=any(request.temperature > 0 for request in requests),
            sorts=any(request.top_k > 0 or request.top_p < 1 for request in requests),
            penalises=any(request.penalises for request in requests),
            tops=any(request.top_logprobs > 0 for request in requests),
            asks=False,
        )


def choose_tokens(
    logits: Float[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    sampling: Sampling,
    seen: Bool[Array, "batch vocab"] | None,
    counts: Int[Array, "batch vocab"] | None,
    active: Bool[Array, " batch"],
    features: Features,
) -> Int[Array, " batch"]:
    """The next token of each row, int32: drawn from `filter_logits` with the row's key, or the likeliest where its
    temperature is 0. `seen` marks the tokens that the repetition penalty is for, `counts` says how often the
    continuation has each (both None where `features` has no penalties). What is skipped would change nothing."""

    def where(used: Bool[Array, " batch"], some: Callable[[], Array], none: Callable[[], Array]) -> Array:
        return jax.lax.cond(jnp.any(active & used), some, none) if features.asks else some()

    if features.penalises:
        assert seen is not None
        assert counts is not None
        plain = logits
        logits = where(_penalised(sampling), lambda: penalise(plain, sampling, seen, counts), lambda: plain)
    likeliest = likeliest_tokens(logits)
    if not features.draws:
        return likeliest
    hot = sampling.temperature > 0

    def draw() -> Array:
        filtered = filter_logits(logits, sampling, sort=False)
        if features.sorts:
            sorts = hot & ((sampling.top_k > 0) | (sampling.top_p < 1))
            filtered = where(sorts, lambda: filter_logits(logits, sampling, sort=True), lambda: filtered)
        return jnp.where(hot, draw_tokens(filtered, keys), likeliest)

    return where(hot, draw, lambda: likeliest)


def penalise(
    logits: Float[Array, "batch vocab"],
    sampling: Sampling,
    seen: Bool[Array, "batch vocab"],
    counts: Int[Array, "batch vocab"],
) -> Float[Array, "batch vocab"]:
    """Repetition, then presence and frequency penalties, as OpenAI's API defines those two: over the continuation."""
    logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    presence = jnp.where(counts > 0, sampling.presence_penalty[:, None], 0.0)
    return logits - presence - counts.astype(jnp.float32) * sampling.frequency_penalty[:, None]


def _penalised(sampling: Sampling) -> Bool[Array, " batch"]:
    return (sampling.repetition_penalty != 1) | (sampling.presence_penalty != 0) | (sampling.frequency_penalty != 0)


def likeliest_tokens(logits: Float[Array, "*batch vocab"]) -> Int[Array, "*batch"]:
    """`argmax` over the last axis, int32: the first of those that tie.

    Two reductions over single values, which compilers make vector code of; one over pairs takes several times as long.
    """
    vocab = logits.shape[-1]
    top = jnp.max(logits, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # A row of NaN has no largest.
    return jnp.minimum(jnp.min(jnp.where(logits == top, ids, vocab), axis=-1), vocab - 1)


def draw_tokens(logits: Float[Array, "batch vocab"], keys: Key[Array, " batch"]) -> Int[Array, " batch"]:
    """A token of each row, int32, by the softmax of its logits; never one whose logit is -inf.

    One random number a row (inverse transform sampling) and one key: a row draws the same whatever stands beside it.
    The running sum is over blocks and then within one, so that the vocabulary is passed over once.
    """
    batch, vocab = logits.shape
    blocks = -(-vocab // _BLOCK)
    padded = jnp.pad(logits, ((0, 0), (0, blocks * _BLOCK - vocab)), constant_values=-jnp.inf)
    shares = jnp.exp(padded - jnp.max(padded, axis=-1, keepdims=True)).reshape(batch, blocks, _BLOCK)
    sums = jnp.sum(shares, axis=-1)
    until = jnp.cumsum(sums, axis=-1)
    at = jax.vmap(jax.random.uniform)(keys) * until[:, -1]
    block = _first_beyond(until, sums, at)
    before = jnp.take_along_axis(until - sums, block[:, None], axis=1)[:, 0]
    within = jnp.take_along_axis(shares, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _first_beyond(jnp.cumsum(within, axis=-1), within, at - before)


def _first_beyond(
    until: Float[Array, "batch n"], parts: Float[Array, "batch n"], at: Float[Array, " batch"]
) -> Int[Array, " batch"]:
    """The first whose running sum is beyond `at`; by rounding there may be none, and then the last that has a part."""
    first = jnp.sum(until <= at[:, None], axis=-1)
    last = jnp.max(jnp.where(parts > 0, jnp.arange(parts.shape[-1], dtype=jnp.int32), 0), axis=-1)
    return jnp.minimum(first, last).astype(jnp.int32)


def sample_keys(seed: int, samples: Sequence[int]) -> Key[Array, " batch"]:
    """The key of each sample: of the seed (0 to 2**63 - 1) and the sample's number among its prompt's, alone."""
    # Both halves of the seed count, whatever width JAX gives integers.
    key = jax.random.fold_in(make_key(seed & 0xFFFFFFFF), seed >> 32) if seed >> 32 else make_key(seed)
    return _fold_all(key, np.array(samples, np.uint32))


def penalise_repetition(
    logits: Float[Array, "batch vocab"], seen: Bool[Array, "batch vocab"], penalty: Float[Array, " batch"]
) -> Float[Array, "batch vocab"]:
    """Logits of seen tokens divided by the penalty where positive and multiplied where not.

    Keskar et al. 2019, "CTRL", section 4.1, which divides either; a negative logit would grow likelier so.
    """
    by = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / by, logits * by), logits)


def filter_logits(
    logits: Float[Array, "batch vocab"], sampling: Sampling, *, sort: bool = True
) -> Float[Array, "batch vocab"]:
    """Logits over temperature, with -inf for what top-k, then top-p, then min-p leave out; the likeliest always stays.

    top-p: the likeliest tokens up to the one that reaches p of what top-k left (Holtzman et al. 2020, section 3.1).
    min-p: those with at least that share of the likeliest one's probability (Nguyen et al. 2024). Tokens that tie with
    the last one kept are kept. `sort=False` is for batches in which no row uses top-k or top-p.
    """
    hot = sampling.temperature[:, None]
    scaled = logits / jnp.where(hot > 0, hot, 1.0)
    if sort:
        scaled = jnp.where(scaled >= _smallest_kept(scaled, sampling)[:, None], scaled, -jnp.inf)
    top = jnp.max(scaled, axis=-1, keepdims=True)
    return jnp.where(scaled >= top + jnp.log(sampling.min_p)[:, None], scaled, -jnp.inf)


# Compiled, since a server asks for keys all the time.
_fold_all = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


def _smallest_kept(scaled: Float[Array, "batch vocab"], sampling: Sampling) -> Float[Array, " batch"]:
    """The least of the logits that top-k and then top-p keep. Halving finds it without sorting the vocabulary."""
    vocab = scaled.shape[-1]
    ranks = _as_ranks(scaled)
    k = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, vocab), vocab)
    kth = _largest(lambda rank: jnp.sum(ranks >= rank[:, None], axis=-1) >= k, len(k))
    shares = jax.nn.softmax(jnp.where(ranks >= kth[:, None], scaled, -jnp.inf), axis=-1)
    p = sampling.top_p
    reaching = _largest(lambda rank: jnp.sum(jnp.where(ranks >= rank[:, None], shares, 0.0), axis=-1) >= p, len(p))
    # Rounding can bring the sum to 1 before the last tokens, which a p of 1 must keep.
    return _as_floats(jnp.where(p < 1, jnp.maximum(kth, reaching), kth))


def _largest(holds: Callable[[Int[Array, " batch"]], Bool[Array, " batch"]], batch: int) -> Int[Array, " batch"]:
    """The largest int32 of each row that `holds`, which then holds for all below it; the smallest where none does."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        # Rounded up, without overflow.
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        enough = holds(middle)
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    limits = jnp.iinfo(jnp.int32)
    bounds = (jnp.full(batch, limits.min, jnp.int32), jnp.full(batch, limits.max, jnp.int32))
    return jax.lax.fori_loop(0, 32, halve, bounds)[0]


def _as_ranks(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """float32 as integers of the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _as_floats(ranks: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = jnp.where(ranks < 0, ranks ^ 0x7FFFFFFF, ranks)
    floats: Array = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return floats
