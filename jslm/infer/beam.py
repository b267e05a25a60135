"""Beam search: the n likeliest texts that end, ranked by their log-probability over their length."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.infer.row import Row, push_tokens
from jslm.infer.state import Settings, State, cache_slots, labels_of, padded_length, whole_prompts
from jslm.model import Cache, Params, apply_cached, decoding_kernels, logits_from_hidden

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel


class Texts(NamedTuple):
    """Some texts side by side, and for each of their tokens its natural log-probability. A score of -inf: no text."""

    tokens: Int[Array, "beams slots"]
    logprobs: Float[Array, "beams slots"]
    length: Int[Array, " beams"]
    score: Float[Array, " beams"]


class Search(NamedTuple):
    """`alive` are the texts that go on, scored by their log-probability, with the cache and next logits of each;
    `ended` those that the end-of-text token ended, scored by log-probability over length**alpha."""

    cache: Cache
    logits: Float[Array, "beams vocab"]
    position: Int[Array, ""]
    settings: Settings
    alive: Texts
    ended: Texts


def write_beams(
    model: LanguageModel, make_row: Callable[[], Row], beams: int, alpha: float, *, room: int = 0
) -> list[tuple[float, Row]]:
    """(score, finished row) of up to `beams` continuations of one prompt, the best first.

    `make_row` gives an empty row of the prompt; its limit holds for all. The score of a text is its natural
    log-probability, end-of-text token included, over its number of tokens, that one included, to the power of `alpha`:
    0 ranks by probability, which favours short texts; 1 by the mean. Texts that the limit cut come after all that ended
    by themselves. The search stops where no text that goes on can reach a better score than the worst one kept. `room`
    as in `write_greedy`. Raises JslmError where the model's logits are not finite.

    Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.1; length: Wu et al. 2016, "Google's
    Neural Machine Translation System", section 7, with length**alpha as in Jean et al. 2015.
    """
    row = make_row()
    context = model.config.model.context_length
    length = padded_length(len(row.ids), context)
    slots = cache_slots(max(len(row.ids) + row.left, min(room, context)), length, context)
    state = model.programs.start(whole_prompts([row], length, model.settings([row])), slots)
    numbers = (np.int32(model.tokenizer.eot_id), np.float32(alpha))
    run = functools.partial(model.programs.run, search, state, beams=beams, slots=slots)
    # Compiles, and writes nothing, so that the seconds counted below are those of decoding alone.
    jax.block_until_ready(run(np.int32(0), *numbers))
    started = time.perf_counter()
    found = jax.device_get(run(np.int32(row.left), *numbers))
    model.decode_seconds += time.perf_counter() - started
    ranked: list[tuple[float, Row]] = []
    for texts in found:
        for index in np.argsort(-texts.score, kind="stable"):
            if texts.score[index] == -np.inf or len(ranked) == beams:
                break
            row, count = make_row(), texts.length[index]
            push_tokens(row, texts.tokens[index, :count], texts.logprobs[index, :count])
            ranked.append((float(texts.score[index]), row))
    model.decode_tokens += sum(len(row.tokens) for _, row in ranked[:1])
    return ranked


@functools.partial(jax.jit, static_argnames=("beams", "slots", "config", "dtype"))
def search(
    params: Params,
    state: State,
    limit: Int[Array, ""],
    end_of_text: Int[Array, ""],
    alpha: Float[Array, ""],
    *,
    beams: int,
    slots: int,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[Texts, Texts]:
    """(texts that ended, texts of `limit` tokens that did not), scored alike, after a prefill of one row."""
    vocab = config.vocab_size
    kernels = decoding_kernels(config, dtype)
    whole = jnp.maximum(limit, 1).astype(jnp.float32) ** alpha

    def unfinished(carry: Search) -> Array:
        # A log-probability only falls, and no length divides it by more than the limit does.
        promise = jnp.max(carry.alive.score) / whole
        return (carry.alive.length[0] < limit) & (promise > jnp.min(carry.ended.score))

    def write_one(carry: Search) -> Search:
        logprobs = jax.nn.log_softmax(carry.logits, axis=-1)
        totals = carry.alive.score[:, None] + logprobs
        # Each text ends with one token at most: among twice as many candidates, enough go on.
        scores, chosen = jax.lax.top_k(totals.ravel(), 2 * beams)
        parents, tokens = chosen // vocab, (chosen % vocab).astype(jnp.int32)
        candidates = _extended(carry.alive, parents, tokens, logprobs.ravel()[chosen], scores)
        ends = tokens == end_of_text
        final = jnp.where(ends, scores / candidates.length.astype(jnp.float32) ** alpha, -jnp.inf)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), carry.ended, candidates._replace(score=final))
        ended = _best(both, beams)[0]
        alive, kept = _best(candidates._replace(score=jnp.where(ends, -jnp.inf, scores)), beams)
        cache = jax.tree.map(lambda leaf: leaf[parents[kept]], carry.cache)
        place = jnp.broadcast_to(carry.position, (beams, 1))
        labels = labels_of(carry.settings)
        hidden, cache = apply_cached(
            params, tokens[kept][:, None], place, cache, config, dtype, conditions=labels, kernels=kernels
        )
        logits = logits_from_hidden(params, hidden, config, kernels)[:, 0]
        return Search(cache, logits, carry.position + 1, carry.settings, alive, ended)

    def none() -> Texts:
        return Texts(
            jnp.zeros((beams, slots), jnp.int32),
            jnp.zeros((beams, slots), jnp.float32),
            jnp.zeros(beams, jnp.int32),
            jnp.full(beams, -jnp.inf),
        )

    first = none()._replace(score=jnp.full(beams, -jnp.inf).at[0].set(0.0))
    repeated = (state.cache, state.logits, state.settings)
    cache, logits, settings = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), repeated)
    start = Search(cache, logits, state.position[0], settings, first, none())
    found = jax.lax.while_loop(unfinished, write_one, start)
    return found.ended, found.alive._replace(score=found.alive.score / whole)


def _extended(
    texts: Texts,
    parents: Int[Array, " candidates"],
    tokens: Int[Array, " candidates"],
    logprobs: Float[Array, " candidates"],
    scores: Float[Array, " candidates"],
) -> Texts:
    """Each parent's text with one token more."""
    at = texts.length[0]
    written = jax.lax.dynamic_update_slice(texts.tokens[parents], tokens[:, None], (0, at))
    history = jax.lax.dynamic_update_slice(texts.logprobs[parents], logprobs[:, None], (0, at))
    return Texts(written, history, texts.length[parents] + 1, scores)


def _best(texts: Texts, count: int) -> tuple[Texts, Int[Array, " count"]]:
    """The `count` texts of the best scores, in their order, and their numbers."""
    _, chosen = jax.lax.top_k(texts.score, count)
    return jax.tree.map(lambda leaf: leaf[chosen], texts), chosen
