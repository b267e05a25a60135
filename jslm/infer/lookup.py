"""Prompt lookup: greedy decoding that guesses the next tokens from the text so far and checks them all at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.infer.programs import JaxPrograms
from jslm.infer.row import Row, push_tokens
from jslm.infer.samplers import Features, likeliest_tokens
from jslm.infer.state import labels_of, padded_length, round_slots, whole_prompts
from jslm.model import Cache, Params, apply_cached, decoding_kernels, logits_from_hidden

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# Tokens guessed a round. A forward pass of eight tokens takes a CPU 1.6 times that of one, which waits for the weights
# to come from memory; of sixteen, 2.5 times, and few guesses between a passive sentence and its active form hold so
# long. With 11 such a sentence takes as long as with 7 or 15, and one that stays as it is an eighth less than with 7.
DRAFT_TOKENS = 11
# Longer common endings tell nothing more about what comes next.
_LONGEST_MATCH = 8
# What a rewrite is longer than its prompt by, mostly less.
_MORE_TOKENS = 16


class Draft(NamedTuple):
    """What lives on the device. Row r has `length[r]` tokens, of which the cache holds all but the last at least."""

    cache: Cache
    tokens: Int[Array, "batch slots"]
    logprobs: Float[Array, "batch slots"]
    length: Int[Array, " batch"]


def write_greedy(
    model: LanguageModel, rows: Sequence[Row], *, draft: int = DRAFT_TOKENS, room: int = 0, length: int = 0
) -> int:
    """Writes all rows to their end, each token the likeliest one; returns the rounds, each one forward pass.

    A round guesses the `draft` tokens that followed the last tokens where these stood before, in the prompt or the
    output, and keeps as many as the model would have written itself, and one more. The output is that of greedy
    decoding, whatever the guesses (but where two tokens tie to the last bits: products of several rows are rounded
    otherwise than those of one; and where guesses are checked in another number type, see `jslm.model.kernels.types`).
    `draft=0` is plain greedy decoding. Programs are compiled for the padded length of the prompts and the size of the
    cache: `length` is one to pad to at least, `room` the tokens that rows may grow to in later calls. The first cache
    has room for as many new tokens as there are in the prompt, and some: attention goes over all of it. Rows that have
    more to say get one of their full size. Log-probabilities are natural, under the model's own distribution. Raises
    JslmError where they are not finite.

    Saxena 2023, "Prompt Lookup Decoding"; verification: Leviathan et al. 2023, "Fast Inference from Transformers via
    Speculative Decoding", with greedy choice.
    """
    if not rows:
        return 0
    if not isinstance(model.programs, JaxPrograms):
        # Its forward pass of several tokens is no faster a token than that of one.
        return _write_plainly(model, rows)
    programs = model.programs.drafting if draft else model.programs
    context = model.config.model.context_length
    padded = max(_padded(max(len(row.ids) for row in rows), context), min(length, context))
    full = max(padded, min(room, context), *(len(row.ids) + row.left for row in rows))
    rounds = _write_within(model, programs, rows, draft, padded, min(full, 2 * padded + _MORE_TOKENS))
    if any(row.left for row in rows):
        padded = padded_length(max(len(row.ids) for row in rows), context)
        rounds += _write_within(model, programs, rows, draft, padded, max(full, padded))
    return rounds


def _padded(tokens: int, context: int) -> int:
    """As `padded_length`, and 96 too: sentences are mostly 60 to 100 characters long, and reading takes a while."""
    length = padded_length(tokens, context)
    return 96 if 64 < tokens <= 96 <= length else length


def _write_within(
    model: LanguageModel, programs: JaxPrograms, rows: Sequence[Row], draft: int, length: int, most: int
) -> int:
    """Writes rows of up to `length` tokens to their end, or until they have `most`; returns the rounds."""
    # A round writes all its guesses and the token after them, even past a row's end.
    slots = round_slots(most + draft + 1)
    pieces = whole_prompts(rows, length, model.settings(rows, draws=False))
    tokens = np.zeros((len(rows), slots), np.int32)
    tokens[:, :length] = pieces.tokens
    left = np.array([max(0, min(row.left, most - len(row.ids))) for row in rows], np.int32)
    cache = programs.start(pieces, slots).cache
    state = Draft(cache, cast(Array, tokens), cast(Array, np.zeros(tokens.shape, np.float32)), pieces.length)
    end_of_text, labels = np.int32(model.tokenizer.eot_id), labels_of(pieces.settings)
    size = (len(rows), slots, draft)
    if size not in programs.drafted:
        # Compiles, and writes nothing, so that the seconds counted below are those of decoding alone.
        programs.drafted.add(size)
        state, _ = programs.run(decode_drafts, state, labels, np.zeros_like(left), end_of_text, draft=draft)
    jax.block_until_ready(state.cache)
    started = time.perf_counter()
    state, rounds = programs.run(decode_drafts, state, labels, left, end_of_text, draft=draft)
    found, logprobs, ends = (np.asarray(array) for array in (state.tokens, state.logprobs, state.length))
    model.decode_seconds += time.perf_counter() - started
    for row, row_tokens, row_logprobs, start, end in zip(
        rows, found, logprobs, np.asarray(pieces.length).tolist(), ends.tolist(), strict=True
    ):
        model.decode_tokens += push_tokens(row, row_tokens[start:end], row_logprobs[start:end])
    return int(rounds)


def _write_plainly(model: LanguageModel, rows: Sequence[Row]) -> int:
    length = padded_length(max(len(row.ids) for row in rows), model.config.model.context_length)
    state = model.programs.start(whole_prompts(rows, length, model.settings(rows)), 0)
    rounds, end = max(row.left for row in rows), model.tokenizer.eot_id
    alive = np.array([row.left > 0 for row in rows])
    started = time.perf_counter()
    written = model.programs.write(state, alive, rounds, end, features=Features.of([row.request for row in rows]))[1]
    model.decode_seconds += time.perf_counter() - started
    for row, *found in zip(rows, np.asarray(written.tokens), np.asarray(written.logprobs), strict=True):
        model.decode_tokens += push_tokens(row, *found)
    return rounds


@functools.partial(jax.jit, static_argnames=("draft", "config", "dtype"), donate_argnames=("state",))
def decode_drafts(
    params: Params,
    state: Draft,
    labels: Int[Array, "batch kinds"] | None,
    left: Int[Array, " batch"],
    end_of_text: Int[Array, ""],
    *,
    draft: int,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[Draft, Int[Array, ""]]:
    """The state with each row written up to its end-of-text token or its next `left[r]` tokens, and the rounds.

    Needs slots for each row's last token and `draft + 1` more. What stands past a row's length means nothing.
    """
    places = jnp.arange(draft + 1, dtype=jnp.int32)[None]
    kernels = decoding_kernels(config, dtype)
    insert = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (at,)))

    def unfinished(carry: tuple[Array, Array, Draft]) -> Array:
        return jnp.any(carry[1] > 0)

    def play_round(carry: tuple[Array, Array, Draft]) -> tuple[Array, Array, Draft]:
        rounds, left, (cache, tokens, logprobs, length) = carry
        last = jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)
        guesses = guess_next(tokens, length, draft)
        read = jnp.concatenate([last, guesses], axis=1)
        positions = length[:, None] - 1 + places
        hidden, cache = apply_cached(params, read, positions, cache, config, dtype, conditions=labels, kernels=kernels)
        logits = logits_from_hidden(params, hidden, config, kernels)
        likeliest = likeliest_tokens(logits)
        scores = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        # The token at place i holds where every guess before it was right and nothing before it ended the text.
        goes_on = (likeliest[:, :-1] == guesses) & (guesses != end_of_text)
        held = 1 + jnp.sum(jnp.cumprod(goes_on, axis=1, dtype=jnp.int32), axis=1)
        new = jnp.minimum(held, left)
        ended = jnp.any((likeliest == end_of_text) & (places < new[:, None]), axis=1)
        tokens, logprobs = insert(tokens, likeliest, length), insert(logprobs, scores, length)
        return rounds + 1, jnp.where(ended, 0, left - new), Draft(cache, tokens, logprobs, length + new)

    rounds, _, state = jax.lax.while_loop(unfinished, play_round, (jnp.int32(0), left, state))
    return state, rounds


def guess_next(
    tokens: Int[Array, "batch slots"], length: Int[Array, " batch"], count: int
) -> Int[Array, "batch count"]:
    """The `count` tokens that followed where the last tokens of each row stood before.

    Of all places the one with the longest common ending (up to 8 tokens), and of several the first: a rewrite mostly
    takes from its prompt, which comes first. Where what followed is shorter than `count`, it is repeated.
    """
    if not count:
        return tokens[:, :0]
    slots = tokens.shape[1]
    index = jnp.arange(slots, dtype=jnp.int32)[None]
    matched = jnp.zeros(tokens.shape, jnp.int32)
    same = index < length[:, None] - 1
    for back in range(_LONGEST_MATCH):
        wanted = jnp.take_along_axis(tokens, jnp.maximum(length - 1 - back, 0)[:, None], axis=1)
        before = jnp.pad(tokens, ((0, 0), (back, 0)), constant_values=-1)[:, :slots]
        same = same & (before == wanted)
        matched = matched + same
    follows = jnp.argmax(matched, axis=1).astype(jnp.int32)[:, None] + 1
    # A row of one token has no place before its last.
    period = jnp.maximum(length[:, None] - follows, 1)
    steps = jnp.arange(count, dtype=jnp.int32)[None]
    return jnp.take_along_axis(tokens, follows + steps % period, axis=1)
