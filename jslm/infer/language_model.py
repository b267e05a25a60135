"""`LanguageModel`: parameters and a tokenizer, ready to write text."""

from __future__ import annotations

import copy
import functools
import itertools
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
from jslm.infer.judgement import Rewrite
from jslm.infer.programs import DISPATCH_TOKENS, JaxPrograms, Programs
from jslm.infer.request import Arguments, Request, RewriteArguments, make_request
from jslm.infer.rewrite import rewrite_sentences
from jslm.infer.row import Result, Row, push_tokens
from jslm.infer.samplers import Features, Sampling, sample_keys
from jslm.infer.state import Settings, State, cache_slots, padded_length, whole_prompts
from jslm.model import Params, compute_dtype, unstack_layers
from jslm.parallel import make_mesh
from jslm.prompts.as_read import as_read
from jslm.runs.bundle import check_vocabulary
from jslm.tokenizer import Tokenizer

_STREAM_TOKENS = 16
_BATCH_BYTES = 2**30
_log = logging.getLogger("jslm")


class LanguageModel:
    """A model that writes: `generate`, `generate_results`, `stream`, `logits`.

    These three take the fields of `jslm.infer.Request` as keyword arguments, by default what the run's `[sample]`
    section says; and `greedy`, which is temperature 0.

    A sample depends on the seed, its prompt and its number among the prompt's samples, and on nothing else that is
    generated beside it.
    """

    def __init__(
        self,
        config: Config,
        params: Params | None,
        tokenizer: Tokenizer,
        *,
        programs: Programs | None = None,
        dtype: jnp.dtype | None = None,
        ends_documents: bool = True,
        chat_template: str = "",
    ) -> None:
        """`params` as from `init_params` or a checkpoint; `dtype` is that of the computation, by default
        the config's.
        Or `programs` that need none.

        `ends_documents`: whether the training data had an end-of-text token after each document, so that the token also
        begins one. `chat_template`: the Jinja source of a chat template, see `stream_chat`. `.programs` is what
        writes and scores. Raises JslmError where the tokenizer has another vocabulary size than the model.
        """
        check_vocabulary(config, tokenizer)
        self.config = config
        self.tokenizer = tokenizer
        self.dtype = jnp.dtype(dtype or compute_dtype(config.model, "writing"))
        self.ends_documents = ends_documents
        self.chat_template = chat_template
        self.decode_tokens = 0
        self.decode_seconds = 0.0
        device = jax.local_devices()[0]
        # During training a mesh of many devices may be set, and these arrays live on one.
        self.mesh = make_mesh(MeshConfig(), [device])
        drafting = jnp.dtype(dtype or compute_dtype(config.model, "drafting"))
        self.programs = programs or self._compiled(params, device, drafting)
        self.conditions: dict[str, str] = {}
        # Those that are built into what computes, "" for none.
        self.fixed_conditions: Mapping[str, str] = {}
        self._warned = False
        # What messages call the way past the context: a verb has its own name for it, or none.
        self.sliding_name = "sliding_window=True"

    @property
    def params(self) -> Params:
        """The parameters as scoring uses them: `layers` a tuple, weights in the type of the computation, on one device.

        Raises JslmError for a model that onnxruntime runs, which has none.
        """
        if isinstance(self.programs, JaxPrograms):
            return self.programs.params
        raise JslmError("this model is run by onnxruntime, and its weights are in its graph alone; open the run folder")

    def _compiled(self, params: Params | None, device: jax.Device, drafting: jnp.dtype) -> JaxPrograms:
        assert params is not None
        model = self.config.model
        with jax.set_mesh(self.mesh):
            # Unstacked on the host, by views: on the device each shape of weights is a program that has to be compiled.
            unstacked = jax.device_put(unstack_layers(jax.device_get(params)), device)
        return JaxPrograms(unstacked, model, self.dtype, self.mesh, drafting)

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
        request = make_request(self.config.sample, **arguments)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        for each in prompts:
            self._warn_of_unknown(each)
        rows = [self.row(p, sample, request) for p in prompts for sample in range(request.num_samples)]
        # A stop string is seen on the host, so that what is written after it is wasted.
        dispatch = 2 * _STREAM_TOKENS if request.stop else DISPATCH_TOKENS
        for group in self._groups(rows, request):
            for _ in self._write(group, request, dispatch):
                pass
        return [row.result() for row in rows]

    def stream(self, prompt: str, **arguments: Unpack[Arguments]) -> Iterator[str]:
        """Pieces of the text that `generate` returns, as they come: whole characters, and nothing of a stop string.

        Raises JslmError as `generate` does, and for `num_samples` other than 1.
        """
        request = make_request(self.config.sample, **arguments)
        if request.num_samples != 1:
            raise JslmError(f"num_samples = {request.num_samples}; stream writes one sample, generate writes several")
        self._warn_of_unknown(prompt)
        return self._pieces(self.row(prompt, 0, request), request)

    def stream_chat(self, messages: Sequence[Mapping[str, str]], **arguments: Unpack[Arguments]) -> Iterator[str]:
        """Pieces of the assistant's answer to messages such as `[{"role": "user", "content": "Hi"}]`; see `Chat`.

        Raises JslmError where the model has no chat template, it refuses the messages, or they don't fit the context.
        """
        return Chat(self).stream(messages, **arguments)

    def stream_row(self, row: Row, request: Request) -> Iterator[str]:
        """Pieces of a row's text as they come, to its end."""
        return self._pieces(row, request)

    def with_conditions(self, conditions: Mapping[str, str]) -> LanguageModel:
        """The same model told what its texts are to be, such as `{"style": "formal"}`; all else is shared.

        Raises JslmError for a condition or a label that the model was not trained with.
        """
        if not isinstance(conditions, Mapping):
            raise JslmError(f"conditions = {conditions!r}; expected names and labels, such as {{'style': 'formal'}}")
        told = copy.copy(self)
        # Instead of what this one was told before.
        told.conditions = dict(conditions)
        told.labels(())
        return told

    def labels(self, conditions: Iterable[tuple[str, str]]) -> list[int]:
        """The number of its label of each of the model's conditions, -1 for none: these, else what it was told already.

        Raises JslmError for a condition or a label that the model was not trained with.
        """
        known = {condition.name: condition.labels for condition in self.config.model.conditions}
        wanted = {**self.conditions, **dict(conditions)}
        for name, label in wanted.items():
            if name in self.fixed_conditions and self.fixed_conditions[name] != label:
                there = self.fixed_conditions[name] or "none"
                raise JslmError(
                    f"condition {name}={label}: {there} is built into this file; export the run again without it"
                )
            if name not in known:
                there = f"it has {', '.join(known)}" if known else "it was trained without any"
                raise JslmError(f"condition {name}={label}: this model has no condition {name!r}; {there}")
            if label not in known[name]:
                raise JslmError(f"condition {name}={label}: {name!r} can be {', '.join(known[name])}")
        return [labels.index(wanted[name]) if name in wanted else -1 for name, labels in known.items()]

    def settings(self, rows: Sequence[Row], *, draws: bool = True) -> Settings:
        """How each row is written, as the programs take it. Without `draws` the keys mean nothing, and are others'
        too: for greedy rows, and programs that leave them."""
        with jax.set_mesh(self.mesh):
            key = _keys(rows) if draws else _no_keys(len(rows))
        columns: dict[str, Any] = {
            "wants_top": np.array([row.request.top_logprobs > 0 for row in rows]),
            "labels": np.array([self.labels(row.request.conditions) for row in rows], np.int32).reshape(len(rows), -1),
        }
        return Settings(Sampling.of([row.request for row in rows]), key, **columns)

    def rewrite(self, sentences: str | Iterable[str], **arguments: Unpack[RewriteArguments]) -> list[Rewrite]:
        """What a model that was trained on pairs makes of each sentence, with its confidence; see `rewrite_sentences`.

        Keyword arguments: `threshold`, `beams`, `alpha`, `lookup`, `max_new_tokens`, `batch_size`, `conditions`.
        """
        if not isinstance(sentences, Iterable):
            raise JslmError(f"sentences = {sentences!r}; expected a text, or several")
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
        request = make_request(self.config.sample, **arguments)
        self._warn_of_unknown(prompt)
        found = write_beams(self, functools.partial(self.row, prompt, 0, request), beams, alpha)
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
        padded = np.zeros((len(tokens), padded_length(length, context)), np.int32)
        padded[:, :length] = tokens
        labels = np.tile(np.array(self.labels(()), np.int32), (len(tokens), 1))
        return np.asarray(self.programs.logits(padded, labels))[:, :length]

    def as_read(self, text: str) -> str:
        """A text as the model reads it, which is as its training data had it: see `jslm.prompts.as_read`."""
        return as_read(text, self.config.data.cleaners)

    def row(self, prompt: str, sample: int, request: Request) -> Row:
        """The row of one sample, before its first token. Raises JslmError where its prompt does not fit."""
        tokenizer, context = self.tokenizer, self.config.model.context_length
        ids = tokenizer.encode(self.as_read(prompt))
        if len(ids) > context - 1 and not (request.sliding_window and context > 1):
            raise JslmError(
                f"prompt is {len(ids)} tokens, the context of this model is {context}; "
                "shorten it" + (f" or use {self.sliding_name}" if self.sliding_name else "")
            )
        starts = self.ends_documents and request.document_start and (tokenizer.adds_bos or not ids)
        if starts and len(ids) + 1 < context:
            ids = [tokenizer.bos_id, *ids]
        elif not ids:
            ids = self.neutral_start()
        limit = request.max_new_tokens
        if not request.sliding_window:
            limit = min(limit, context - len(ids))
        if limit < 1:
            raise JslmError(f"the context of this model is {context}, which leaves no room to write in")
        row = Row(prompt, ids, sample, limit, tokenizer, request)
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

    def _groups(self, rows: list[Row], request: Request) -> Iterator[list[Row]]:
        """The rows in batches whose cache and prefill stay under about 1 GiB."""
        if not rows:
            return
        model = self.config.model
        length, slots = self._sizes(rows, request)
        cache = 2 * model.n_layers * model.kv_heads * slots * model.dim_per_head * self.dtype.itemsize
        size = max(1, _BATCH_BYTES // (cache + 8 * model.n_heads * length * slots))
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _sizes(self, rows: list[Row], request: Request) -> tuple[int, int]:
        """(padded prompt length, cache slots)."""
        context = self.config.model.context_length
        length = padded_length(max(row.position for row in rows), context)
        longest = max(row.position + row.left for row in rows)
        if request.sliding_window and longest > context:
            length = max(length, padded_length(context // 2, context))
        return length, cache_slots(longest, length, context)

    def _pieces(self, row: Row, request: Request) -> Iterator[str]:
        for _ in self._write([row], request, _STREAM_TOKENS):
            if piece := row.take():
                yield piece

    def _write(self, rows: list[Row], request: Request, dispatch: int) -> Iterator[None]:
        """Writes all rows to their end; yields after each dispatch of up to `dispatch` tokens a row."""
        features, context, end = Features.of([request]), self.config.model.context_length, self.tokenizer.eot_id
        _, slots = self._sizes(rows, request)
        settings = self.settings(rows)
        state = self._read(rows, slots, settings)
        # Compiles, and writes nothing, so that the seconds counted below are those of decoding alone.
        state, _ = self.programs.write(state, _alive(rows), 0, end, features=features)
        while active := [row for row in rows if row.left]:
            if any(row.position >= context for row in active):
                for row in active:
                    self._slide(row)
                state = self._read(rows, slots, settings)
            room = min(context - row.position for row in active) if request.sliding_window else dispatch
            count = min(dispatch, room, max(row.left for row in active))
            started = time.perf_counter()
            state, written = self.programs.write(state, _alive(rows), count, end, features=features)
            found = [np.asarray(array)[:, :count] for array in written]
            self.decode_seconds += time.perf_counter() - started
            self.decode_tokens += sum(map(push_tokens, rows, *found))
            yield
        cut = [row for row in rows if row.finish_reason == "length" and len(row.tokens) < request.max_new_tokens]
        if cut and not self._warned:
            self._warned = True
            _log.warning(
                "the context of %d tokens was full after %d new tokens, before max_new_tokens = %d%s",
                context,
                len(cut[0].tokens),
                request.max_new_tokens,
                f"; {self.sliding_name} writes on" if self.sliding_name else "",
            )

    def _read(self, rows: list[Row], slots: int, settings: Settings) -> State:
        longest = max(row.position if row.left else 1 for row in rows)
        pieces = whole_prompts(rows, padded_length(longest, self.config.model.context_length), settings)
        if any(row.request.penalises for row in rows):
            marks: dict[str, Any] = {
                "seen": np.stack([self.seen(row) for row in rows]),
                "counts": np.stack([self._counts(row) for row in rows]),
            }
            pieces = pieces._replace(**marks)
        return self.programs.start(pieces, slots)

    def seen(self, row: Row) -> np.ndarray:
        """`[vocab]` marks of the tokens that the repetition penalty is for."""
        marks = np.zeros(self.config.model.vocab_size, bool)
        if row.request.repetition_penalty != 1:
            marks[row.ids] = True
            # Where it starts the document it is no repetition: a penalty on it would keep documents from ending.
            marks[[self.tokenizer.bos_id, self.tokenizer.eot_id]] = False
        return marks

    def _counts(self, row: Row) -> np.ndarray:
        return np.bincount(row.tokens, minlength=self.config.model.vocab_size).astype(np.int32)


def _alive(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row.left > 0 for row in rows])


def _keys(rows: Sequence[Row]) -> Key[Array, " rows"]:
    keys = [
        sample_keys(seed, [row.sample for row in together])
        for seed, together in itertools.groupby(rows, lambda row: row.request.seed)
    ]
    return jnp.concatenate(keys) if len(keys) > 1 else keys[0]


@functools.lru_cache(maxsize=64)
def _no_keys(rows: int) -> Key[Array, " rows"]:
    return sample_keys(0, [0] * rows)
