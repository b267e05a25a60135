"""From logits to the next token: pure functions, one row of a batch independent of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


class Sampling(NamedTuple):
    """A setting a row, so that one compiled program serves any mix."""

    temperature: Float[Array, " batch"]
    top_k: Int[Array, " batch"]
    top_p: Float[Array, " batch"]
    min_p: Float[Array, " batch"]
    repetition_penalty: Float[Array, " batch"]


class Plan(NamedTuple):
    """What any row of a batch needs. It is static: a batch that is greedy throughout compiles to an argmax alone."""

    draws: bool = True
    sorts: bool = True
    penalises: bool = True


def sample_tokens(
    logits: Float[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    sampling: Sampling,
    seen: Bool[Array, "batch vocab"] | None,
    plan: Plan,
) -> Int[Array, " batch"]:
    """The next token of each row, int32: drawn from `filter_logits` with the row's key, or the likeliest where its
    temperature is 0. `seen` marks the tokens that the repetition penalty is for; None where `plan` has none."""
    if plan.penalises:
        assert seen is not None
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if not plan.draws:
        return likeliest
    filtered = filter_logits(logits, sampling, sort=plan.sorts)
    # One key a row: a row draws the same whatever stands beside it.
    drawn = jax.vmap(jax.random.categorical)(keys, filtered).astype(jnp.int32)
    return jnp.where(sampling.temperature > 0, drawn, likeliest)


def sample_keys(seed: int, samples: Sequence[int]) -> Key[Array, " batch"]:
    """The key of each sample: of the seed (0 to 2**63 - 1) and the sample's number among its prompt's, alone."""
    # Both halves of the seed count, whatever width JAX gives integers.
    key = jax.random.fold_in(jax.random.key(seed & 0xFFFFFFFF), seed >> 32) if seed >> 32 else jax.random.key(seed)
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
    vocab = scaled.shape[-1]
    ordered = -jnp.sort(-scaled, axis=-1)
    ranks = jnp.arange(vocab, dtype=jnp.int32)[None]
    k = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, vocab), vocab)[:, None]
    ordered = jnp.where(ranks < k, ordered, -jnp.inf)
    shares = jax.nn.softmax(ordered, axis=-1)
    likelier = jnp.cumsum(shares, axis=-1) - shares
    p = sampling.top_p[:, None]
    # Rounding can bring the sum to 1 before the last tokens, which a p of 1 must keep.
    kept = (likelier < p) | (p >= 1) | (ranks == 0)
    return jnp.min(jnp.where(kept & (ranks < k), ordered, jnp.inf), axis=-1)
