"""Rewriting: a sentence in, the model's version of it out, or the sentence itself where the model is not sure."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.infer.beam import write_beams
from jslm.infer.lookup import DRAFT_TOKENS, write_greedy
from jslm.infer.request import RewriteArguments, RewriteOptions, make_request, resolve_rewriting
from jslm.infer.row import Row
from jslm.infer.state import padded_length
from jslm.prompts.pairs import shown_prompt

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# A rewrite that takes more than twice the tokens of its sentence and these is no rewrite.
_SLACK_TOKENS = 32
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_log = logging.getLogger("jslm")


@dataclass(frozen=True)
class Rewrite:
    """A sentence and what became of it.

    `confidence` is the mean natural log-probability of the tokens that the model wrote, end-of-text token included,
    also where `output` is the source after all; None where the model wrote nothing: for a blank or too long source.
    """

    source: str
    output: str
    confidence: float | None
    changed: bool


def rewrite_sentences(
    model: LanguageModel, sentences: Iterable[str], **arguments: Unpack[RewriteArguments]
) -> Iterator[Rewrite]:
    """The rewrites, in order, each as soon as it is there; `batch_size` sentences are written at once.

    A sentence stays as it is
    - where it is blank, and where the rewrite is;
    - where the confidence is under `threshold` (a mean log-probability, so 0 at most);
    - with a warning that gives its number after `where`: where it has characters that the tokenizer does not know, or
      what ends a prompt, is too long for the context, or its rewrite has not ended within `max_new_tokens` (None: twice
      the prompt's and 32);
    - where the rewrite holds an unknown character.
    White space around a sentence stays around its rewrite. A rewrite ends at a line break at the latest.

    `beams` over 1 searches for the best of that many, ranked by log-probability over length**`alpha`, one sentence at a
    time. Without, decoding is greedy, and `lookup` makes it fast (see `lookup.write_greedy`) without changing it.
    `conditions` are the model's already (see `LanguageModel.with_conditions`). Raises JslmError for an argument out of
    range.
    """
    work = _Work(model, resolve_rewriting(**arguments))
    return _rewrites(work, sentences)


def rewrite_prompt(data: DataConfig, sentence: str) -> str:
    """What a model that learned rewriting reads before it writes (`jslm.prompts.pairs.shown_prompt`).

    Raises JslmError for a template that needs more than the sentence.
    """
    try:
        return shown_prompt(data, {"prompt": sentence})
    except KeyError as error:
        raise JslmError(
            f"data.template = {data.template!r}: rewriting has a sentence for {{prompt}} alone, and this model "
            f"also wants {{{error.args[0]}}}"
        ) from None


def _prompt_end(data: DataConfig) -> str:
    return data.prompt_end or "\n"


class _Work:
    """How the rewrites of some prompts are written."""

    def __init__(self, model: LanguageModel, options: RewriteOptions) -> None:
        self.model = model
        self.options = options

    def tokens(self, sentence: str) -> int:
        """Of its prompt."""
        return len(self.model.tokenizer.encode(self.model.as_read(rewrite_prompt(self.model.config.data, sentence))))

    def write(self, sentences: list[str]) -> list[Row]:
        """A finished row a sentence."""
        rows = [self._row(sentence) for sentence in sentences]
        # The same for all prompts that are padded to one length: few programs are compiled.
        room = max((self._room(padded_length(len(row.ids), self._context)) for row in rows), default=0)
        options = self.options
        if options.beams == 1:
            write_greedy(self.model, rows, draft=DRAFT_TOKENS if options.lookup else 0, room=room)
            return rows
        found = []
        for sentence in sentences:
            make_row = functools.partial(self._row, sentence)
            found.append(write_beams(self.model, make_row, options.beams, options.alpha, room=room)[0][1])
        return found

    @property
    def _context(self) -> int:
        return self.model.config.model.context_length

    def _room(self, tokens: int) -> int:
        most = self.options.max_new_tokens
        return tokens + (2 * tokens + _SLACK_TOKENS if most is None else most)

    def _row(self, sentence: str) -> Row:
        prompt = rewrite_prompt(self.model.config.data, sentence)
        most = self._room(self.tokens(sentence)) - self.tokens(sentence)
        request = make_request(self.model.config.sample, max_new_tokens=most, greedy=True, stop="\n")
        return self.model.row(prompt, 0, request)


def _rewrites(work: _Work, sentences: Iterable[str]) -> Iterator[Rewrite]:
    numbered = enumerate(sentences, 1)
    context, where = work.model.config.model.context_length, work.options.where
    while batch := list(itertools.islice(numbered, work.options.batch_size)):
        fitting = []
        for number, sentence in batch:
            core = sentence.strip()
            # A token before it and one after it at least: what begins a document, and the rewrite.
            if (tokens := work.tokens(core)) + 2 > context:
                _log.warning(
                    "%s %d: %d tokens, the context of this model is %d; left unchanged", where, number, tokens, context
                )
            elif unknown := work.model.tokenizer.unknown_characters(work.model.as_read(core)):
                shown = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
                _log.warning("%s %d: the tokenizer has never seen %s; left unchanged", where, number, shown)
            elif (end := _prompt_end(work.model.config.data)) in core:
                _log.warning("%s %d: %r in it, which for this model ends a prompt; left unchanged", where, number, end)
            elif core:
                fitting.append((number, sentence))
        rows = dict(zip(fitting, work.write([sentence.strip() for _, sentence in fitting]), strict=True))
        for number, sentence in batch:
            row = rows.get((number, sentence))
            if row is None:
                yield Rewrite(sentence, sentence, None, False)
                continue
            if row.finish_reason == "length":
                _log.warning(
                    "%s %d: its rewrite has not ended after %d tokens; left unchanged", where, number, len(row.tokens)
                )
            yield _judge(sentence, row, work.options.threshold)


def _judge(sentence: str, row: Row, threshold: float) -> Rewrite:
    logprobs = row.logprobs if row.end_logprob is None else [*row.logprobs, row.end_logprob]
    confidence = sum(logprobs) / len(logprobs) if logprobs else None
    core, text = sentence.strip(), row.text.strip()
    whole = row.finish_reason == "stop" and text and _UNKNOWN not in text
    if not whole or confidence is None or confidence < threshold or text == core:
        return Rewrite(sentence, sentence, confidence, False)
    at = sentence.index(core)
    return Rewrite(sentence, sentence[:at] + text + sentence[at + len(core) :], confidence, True)
