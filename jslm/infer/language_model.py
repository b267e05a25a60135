"""`LanguageModel`: parameters and a tokenizer, ready to write text."""

from __future__ import annotations

import copy
import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Key

from jslm.config import Config, MeshConfig
from jslm.errors import JslmError
from jslm.infer.beam import write_beams
from jslm.infer.chat import Chat
from jslm.infer.decode import (
    DISPATCH_TOKENS,
    DecodeState,
    Written,
    all_logits,
    cache_slots,
    decode,
    prefill,
    prefill_length,
)
from jslm.infer.options import Arguments, Options, RewriteArguments, resolve_options
from jslm.infer.rewrite import Rewrite, rewrite_sentences
from jslm.infer.row import Result, Row, push_tokens
from jslm.infer.samplers import Plan, Sampling, sample_keys
from jslm.model import Params, compute_dtype, decoding_params, unstack_layers
from jslm.parallel import make_mesh
from jslm.prompts.as_read import as_read
from jslm.tokenizer import Tokenizer

_STREAM_TOKENS = 16
_BATCH_BYTES = 2**30
_log = logging.getLogger("jslm")


class LanguageModel:
    """A model that writes: `generate`, `generate_results`, `stream`, `logits`.

    These three take the same keyword arguments, by default what the run's `[sample]` section says: `max_new_tokens`,
    `temperature` (0 is greedy), `top_k`, `top_p`, `min_p`, `repetition_penalty`; and `seed`, `num_samples`, `stop`
    (strings that end a sample, which is cut before them), `greedy`, `sliding_window` (go on past the context: when it
    is full, its last half is read anew and writing goes on from there), `document_start` (False leaves out the
    end-of-text token that begins a document).

    A sample depends on the seed, its prompt and its number among the prompt's samples, and on nothing else that is
    generated beside it.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        tokenizer: Tokenizer,
        *,
        dtype: jnp.dtype | None = None,
        ends_documents: bool = True,
        chat_template: str = "",
    ) -> None:
        """`params` as from `init_params` or a checkpoint; `dtype` is that of the computation, by default the config's.

        `ends_documents`: whether the training data had an end-of-text token after each document, so that the token also
        begins one. `chat_template`: the Jinja source of a chat template, see `stream_chat`. `.params` holds the
        parameters as decoding uses them: `layers` a tuple, weights in `dtype`, on one device; `.weights` is the same
        with the output head as decoding multiplies by it, and `.mesh` that one device. Raises JslmError where the
        tokenizer has another vocabulary size than the model.
        """
        if config.model.vocab_size != tokenizer.vocab_size:
            raise JslmError(
                f"model.vocab_size = {config.model.vocab_size:,}, but the tokenizer has {tokenizer.vocab_size:,} "
                "entries; use the tokenizer that the model was trained with"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.dtype = jnp.dtype(dtype or compute_dtype(config.model))
        self.ends_documents = ends_documents
        self.chat_template = chat_template
        self.decode_tokens = 0
        self.decode_seconds = 0.0
        device = jax.local_devices()[0]
        # During training a mesh of many devices may be set, and these arrays live on one.
        self.mesh = make_mesh(MeshConfig(), [device])
        with jax.set_mesh(self.mesh):
            self.params = _cast(unstack_layers(jax.device_put(params, device)), self.dtype)
            self.weights = decoding_params(self.params, config.model, self.dtype)
        self._warned = False
        # What messages call the way past the context: a verb has its own name for it, or none.
        self.sliding_name = "sliding_window=True"

    def generate(
        self, prompt: str | Sequence[str], **arguments: Unpack[Arguments]
    ) -> str | list[str] | list[list[str]]:
        """The continuation of each prompt, without the prompt.

        One prompt and one sample give a string; several prompts, or several samples, a list; both, a list of samples
        for each prompt. An empty prompt starts a document. Raises JslmError for an argument out of range, and for a
        prompt that leaves no room in the context.
        """
        texts = [result.text for result in self.generate_results(prompt, **arguments)]
        samples = arguments.get("num_samples", 1)
        if isinstance(prompt, str):
            return texts if samples > 1 else texts[0]
        if samples == 1:
            return texts
        return [texts[first : first + samples] for first in range(0, len(texts), samples)]

    def generate_results(self, prompt: str | Sequence[str], **arguments: Unpack[Arguments]) -> list[Result]:
        """As `generate`, with tokens, log-probabilities and the reason of the end: a flat list, prompt by prompt."""
        options = resolve_options(self.config.sample, **arguments)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        for each in prompts:
            self._warn_of_unknown(each)
        rows = [self.row(p, sample, options) for p in prompts for sample in range(options.num_samples)]
        # A stop string is seen on the host, so that what is written after it is wasted.
        dispatch = 2 * _STREAM_TOKENS if options.stop else DISPATCH_TOKENS
        for group in self._groups(rows, options):
            for _ in self._write(group, options, dispatch):
                pass
        return [row.result() for row in rows]

    def stream(self, prompt: str, **arguments: Unpack[Arguments]) -> Iterator[str]:
        """Pieces of the text that `generate` returns, as they come: whole characters, and nothing of a stop string.

        Raises JslmError as `generate` does, and for `num_samples` other than 1.
        """
        options = resolve_options(self.config.sample, **arguments)
        if options.num_samples != 1:
            raise JslmError(f"num_samples = {options.num_samples}; stream writes one sample, generate writes several")
        self._warn_of_unknown(prompt)
        return self._pieces(self.row(prompt, 0, options), options)

    def stream_chat(self, messages: Sequence[Mapping[str, str]], **arguments: Unpack[Arguments]) -> Iterator[str]:
        """Pieces of the assistant's answer to messages such as `[{"role": "user", "content": "Hi"}]`; see `Chat`.

        Raises JslmError where the model has no chat template, it refuses the messages, or they don't fit the context.
        """
        return Chat(self).stream(messages, **arguments)

    def stream_row(self, row: Row, options: Options) -> Iterator[str]:
        """Pieces of a row's text as they come, to its end."""
        return self._pieces(row, options)

    def with_conditions(self, conditions: Mapping[str, str]) -> LanguageModel:
        """The same model told what its texts are to be, such as `{"style": "formal"}`; all else is shared.

        Raises JslmError for a condition or a label that the model was not trained with.
        """
        known = {condition.name: condition.labels for condition in self.config.model.conditions}
        # From the model's own, whatever this one was told before.
        tokens = self.params["embed"]["tokens"]
        for name, label in conditions.items():
            if name not in known:
                there = f"it has {', '.join(known)}" if known else "it was trained without any"
                raise JslmError(f"condition {name}={label}: this model has no condition {name!r}; {there}")
            if label not in known[name]:
                raise JslmError(f"condition {name}={label}: {name!r} can be {', '.join(known[name])}")
            with jax.set_mesh(self.mesh):
                # Added once, rather than to each token: the output head is a table of its own by now.
                row = self.params["embed"]["conditions"][name][known[name].index(label)]
                tokens = tokens + row[None]
        told = copy.copy(self)
        told.weights = {**self.weights, "embed": {**self.weights["embed"], "tokens": tokens}}
        return told

    def rewrite(self, sentences: str | Iterable[str], **arguments: Unpack[RewriteArguments]) -> list[Rewrite]:
        """What a model that was trained on pairs makes of each sentence, with its confidence; see `rewrite_sentences`.

        Keyword arguments: `threshold`, `beams`, `alpha`, `lookup`, `max_new_tokens`, `batch_size`, `conditions`.
        """
        return list(self.rewrite_stream([sentences] if isinstance(sentences, str) else sentences, **arguments))

    def rewrite_stream(self, sentences: Iterable[str], **arguments: Unpack[RewriteArguments]) -> Iterator[Rewrite]:
        """As `rewrite`, each as soon as it is there; `sentences` are taken as they are needed."""
        conditions = arguments.get("conditions")
        return rewrite_sentences(self.with_conditions(conditions) if conditions else self, sentences, **arguments)

    def beam_search(
        self, prompt: str, beams: int = 4, alpha: float = 1.0, **arguments: Unpack[Arguments]
    ) -> list[tuple[float, Result]]:
        """(score, sample) of up to `beams` continuations, the best first; see `write_beams`.

        Of the keyword arguments, `max_new_tokens`, `stop` and `document_start` count; a stop string cuts a text once it
        is found. Raises JslmError as `generate` does.
        """
        if beams < 1 or not 0 <= alpha < math.inf:
            raise JslmError(f"beams = {beams}, alpha = {alpha}; expected 1 or more beams, and an alpha of 0 or more")
        arguments["sliding_window"] = False
        options = resolve_options(self.config.sample, **arguments)
        self._warn_of_unknown(prompt)
        found = write_beams(self, functools.partial(self.row, prompt, 0, options), beams, alpha)
        return [(score, row.result()) for score, row in found]

    def logits(
        self, ids: Sequence[int] | Sequence[Sequence[int]] | np.ndarray
    ) -> Float32[np.ndarray, "batch length vocab"]:
        """Next-token logits at every position of `[batch, length]` ids (or of one sequence: a batch of 1).

        Over the true vocabulary. Raises JslmError for ids outside it, for no ids, and for more than the context.
        """
        try:
            tokens = np.asarray(ids)
        except ValueError:
            raise JslmError("ids: rows of different lengths; pad them on the right, or ask for one at a time") from None
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        context, vocab = self.config.model.context_length, self.config.model.vocab_size
        if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise JslmError(f"ids: {tokens.dtype} of shape {tokens.shape}; expected integers of shape [batch, length]")
        length = tokens.shape[1]
        if length > context:
            raise JslmError(f"ids: {length} tokens, the context of this model is {context}; shorten them")
        if tokens.min() < 0 or tokens.max() >= vocab:
            raise JslmError(f"ids: from {tokens.min()} to {tokens.max()}; this model's vocabulary is 0 to {vocab - 1}")
        padded = np.zeros((len(tokens), prefill_length(length, context)), np.int32)
        padded[:, :length] = tokens
        with jax.set_mesh(self.mesh):
            logits = all_logits(self.weights, padded, config=self.config.model, dtype=self.dtype)
        return np.asarray(logits)[:, :length]

    def as_read(self, text: str) -> str:
        """A text as the model reads it, which is as its training data had it: see `jslm.prompts.as_read`."""
        return as_read(text, self.config.data.cleaners)

    def row(self, prompt: str, sample: int, options: Options) -> Row:
        """The row of one sample, before its first token. Raises JslmError where its prompt does not fit."""
        tokenizer, context = self.tokenizer, self.config.model.context_length
        ids = tokenizer.encode(self.as_read(prompt))
        if len(ids) > context - 1 and not (options.sliding_window and context > 1):
            raise JslmError(
                f"prompt is {len(ids)} tokens, the context of this model is {context}; "
                "shorten it" + (f" or use {self.sliding_name}" if self.sliding_name else "")
            )
        starts = self.ends_documents and options.document_start and (tokenizer.adds_bos or not ids)
        if starts and len(ids) + 1 < context:
            ids = [tokenizer.bos_id, *ids]
        elif not ids:
            ids = self.neutral_start()
        limit = options.max_new_tokens
        if not options.sliding_window:
            limit = min(limit, context - len(ids))
        if limit < 1:
            raise JslmError(f"the context of this model is {context}, which leaves no room to write in")
        row = Row(prompt, ids, sample, limit, tokenizer, options.stop)
        self._slide(row)
        return row

    def _warn_of_unknown(self, prompt: str) -> None:
        if unknown := self.tokenizer.unknown_characters(self.as_read(prompt)):
            shown = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            _log.warning("prompt: the tokenizer has never seen %s; the model reads an unknown character there", shown)

    def neutral_start(self) -> list[int]:
        """What stands for nothing where documents do not begin with the end-of-text token: a line break."""
        line_break = self.tokenizer.encode("\n")
        known = len(line_break) == 1 and not self.tokenizer.unknown_characters("\n")
        return line_break if known else [self.tokenizer.bos_id]

    def _slide(self, row: Row) -> None:
        """Where the context is full, keeps its last half."""
        context = self.config.model.context_length
        if row.position >= context:
            row.start = len(row.ids) - context // 2

    def _groups(self, rows: list[Row], options: Options) -> Iterator[list[Row]]:
        """The rows in batches whose cache and prefill stay under about 1 GiB."""
        if not rows:
            return
        model = self.config.model
        length, slots = self._sizes(rows, options)
        cache = 2 * model.n_layers * model.kv_heads * slots * model.dim_per_head * self.dtype.itemsize
        size = max(1, _BATCH_BYTES // (cache + 8 * model.n_heads * length * slots))
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _sizes(self, rows: list[Row], options: Options) -> tuple[int, int]:
        """(padded prompt length, cache slots)."""
        context = self.config.model.context_length
        length = prefill_length(max(row.position for row in rows), context)
        longest = max(row.position + row.left for row in rows)
        if options.sliding_window and longest > context:
            length = max(length, prefill_length(context // 2, context))
        return length, cache_slots(longest, length, context)

    def _pieces(self, row: Row, options: Options) -> Iterator[str]:
        for _ in self._write([row], options, _STREAM_TOKENS):
            if piece := row.take():
                yield piece

    def _write(self, rows: list[Row], options: Options, dispatch: int) -> Iterator[None]:
        """Writes all rows to their end; yields after each dispatch of up to `dispatch` tokens a row."""
        plan = Plan(
            draws=options.temperature > 0,
            sorts=options.top_k > 0 or options.top_p < 1,
            penalises=options.repetition_penalty != 1,
        )
        context, batch = self.config.model.context_length, len(rows)
        with jax.set_mesh(self.mesh):
            sampling, keys = _sampling(options, batch), sample_keys(options.seed, [row.sample for row in rows])
        _, slots = self._sizes(rows, options)
        state = self._prefill(rows, slots, plan)
        # Compiles, and writes nothing, so that the seconds counted below are those of decoding alone.
        state, _ = self._decode(state, rows, 0, 0, keys, sampling, plan)
        step = 0
        while active := [row for row in rows if row.left]:
            if any(row.position >= context for row in active):
                for row in active:
                    self._slide(row)
                state = self._prefill(rows, slots, plan)
            room = min(context - row.position for row in active) if options.sliding_window else dispatch
            count = min(dispatch, room, max(row.left for row in active))
            started = time.perf_counter()
            state, written = self._decode(state, rows, count, step, keys, sampling, plan)
            tokens, logprobs = (np.asarray(array)[:, :count] for array in written)
            self.decode_seconds += time.perf_counter() - started
            self.decode_tokens += sum(map(push_tokens, rows, tokens, logprobs))
            step += count
            yield
        cut = [row for row in rows if row.finish_reason == "length" and len(row.tokens) < options.max_new_tokens]
        if cut and not self._warned:
            self._warned = True
            _log.warning(
                "the context of %d tokens was full after %d new tokens, before max_new_tokens = %d%s",
                context,
                len(cut[0].tokens),
                options.max_new_tokens,
                f"; {self.sliding_name} writes on" if self.sliding_name else "",
            )

    def _prefill(self, rows: list[Row], slots: int, plan: Plan) -> DecodeState:
        # A row that has ended takes part with one token, to keep the batch's shape.
        windows = [row.ids[row.start :] if row.left else row.ids[-1:] for row in rows]
        length = prefill_length(max(map(len, windows)), self.config.model.context_length)
        tokens = np.zeros((len(rows), length), np.int32)
        for row_tokens, window in zip(tokens, windows, strict=True):
            row_tokens[: len(window)] = window
        lengths = np.array([len(window) for window in windows], np.int32)
        seen = None
        if plan.penalises:
            seen = np.zeros((len(rows), self.config.model.vocab_size), bool)
            for marks, row in zip(seen, rows, strict=True):
                marks[row.ids] = True
                # Where it starts the document it is no repetition: a penalty on it would keep documents from ending.
                marks[[self.tokenizer.bos_id, self.tokenizer.eot_id]] = False
        with jax.set_mesh(self.mesh):
            return prefill(self.weights, tokens, lengths, seen, slots=slots, config=self.config.model, dtype=self.dtype)

    def _decode(
        self,
        state: DecodeState,
        rows: list[Row],
        count: int,
        step: int,
        keys: Key[Array, " batch"],
        sampling: Sampling,
        plan: Plan,
    ) -> tuple[DecodeState, Written]:
        left = np.array([row.left for row in rows], np.int32)
        numbers = (np.int32(count), np.int32(step))
        end_of_text = np.int32(self.tokenizer.eot_id)
        with jax.set_mesh(self.mesh):
            return decode(
                self.weights,
                state,
                left,
                *numbers,
                keys,
                end_of_text,
                sampling,
                plan=plan,
                config=self.config.model,
                dtype=self.dtype,
            )


def _sampling(options: Options, batch: int) -> Sampling:
    def column(value: float, dtype: type[np.generic]) -> Array:
        return jnp.asarray(np.full(batch, value, dtype))

    return Sampling(
        column(options.temperature, np.float32),
        column(min(options.top_k, 2**31 - 1), np.int32),
        column(options.top_p, np.float32),
        column(options.min_p, np.float32),
        column(options.repetition_penalty, np.float32),
    )


def _cast(params: Params, dtype: jnp.dtype) -> Params:
    """The weights as the products use them, cast once and not at each token. Norms compute in float32 and stay so."""
    if dtype == jnp.float32:
        return params

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

    cast_params: Params = jax.tree_util.tree_map_with_path(cast, params)
    return cast_params
