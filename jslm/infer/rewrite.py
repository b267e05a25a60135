"""Rewriting: a sentence in, the model's version of it out, or the sentence itself and why it stays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.infer.beam import write_beams
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import Rewrite, StandIns, judge, kept
from jslm.infer.lookup import DRAFT_TOKENS, write_greedy
from jslm.infer.request import RewriteArguments, RewriteOptions, make_request, resolve_rewriting
from jslm.infer.row import Row
from jslm.infer.state import padded_length
from jslm.prompts.pairs import shown_prompt

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# A rewrite that takes more than twice the tokens of its sentence and these is no rewrite.
_SLACK_TOKENS = 32
# A sentence with the white space behind it.
_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’)\]]*(?=\s)\s*|\Z)", re.DOTALL)
_log = logging.getLogger("jslm")


def rewrite_sentences(
    model: LanguageModel, sentences: Iterable[str], **arguments: Unpack[RewriteArguments]
) -> Iterator[Rewrite]:
    """The rewrites, in order, each as soon as it is there; `batch_size` sentences are written at once.

    A sentence stays as it is, and `reason` says why,
    - where it is blank, where the rewrite is, and where that is the same sentence;
    - where the confidence, a probability, is under `threshold` (None: the model's own, `rewrite.threshold`);
    - where `rewrite.faithful` is set and the rewrite has other words than it (`jslm.infer.faithful`);
    - with a warning that gives its number after `where`: where it has characters that the tokenizer does not know and
      has none for, or what ends a prompt, is too long for the context, or its rewrite has not ended within
      `max_new_tokens` (None: twice the prompt's and 32);
    - where the rewrite holds an unknown character.
    Sentences are read in Unicode NFC; with `rewrite.sentences` a text of several is rewritten one by one.
    White space around a sentence stays around its rewrite. A rewrite ends at a line break at the latest.

    `beams` over 1 searches for the best of that many, ranked by log-probability over length**`alpha`, one sentence at a
    time; with `rewrite.faithful` for the best that has no other words than the sentence. Without, decoding is greedy,
    and `lookup` makes it fast (see `lookup.write_greedy`) without changing it.
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


class _Unreadable(Exception):
    """A sentence that the model can't read; its text says why."""


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
            ranked = write_beams(self.model, make_row, options.beams, options.alpha, room=room)
            found.append(next((row for _, row in ranked if self._is_faithful(sentence, row)), ranked[0][1]))
        return found

    def _is_faithful(self, sentence: str, row: Row) -> bool:
        """Whether a rewrite that has ended may stand, so that the best one that may is taken, not the best."""
        if not self.model.config.rewrite.faithful:
            return True
        told = may_add(self.model.conditions)
        return row.finish_reason == "stop" and not unfaithful(sentence, row.text.strip(), may_add=told)

    def readable(self, core: str) -> tuple[str, StandIns]:
        """(the sentence as the model reads it, what stands for characters it does not know). Raises _Unreadable."""
        tokenizer, context = self.model.tokenizer, self._context
        if not core:
            raise _Unreadable("blank")
        # A token before it and one after it at least: what begins a document, and the rewrite.
        if (tokens := self.tokens(core)) + 2 > context:
            raise _Unreadable(f"{tokens} tokens, the context of this model is {context}")
        try:
            stand_ins = StandIns(tokenizer, self.model.as_read(core))
        except KeyError:
            unknown = tokenizer.unknown_characters(self.model.as_read(core))
            shown = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise _Unreadable(f"the tokenizer has never seen {shown}") from None
        if (end := _prompt_end(self.model.config.data)) in core:
            raise _Unreadable(f"{end!r} in it, which for this model ends a prompt")
        return stand_ins.put(core), stand_ins

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
    while batch := list(itertools.islice(numbered, work.options.batch_size)):
        reasons: dict[int, str] = {}
        fitting: dict[int, tuple[str, StandIns]] = {}
        pieces: dict[int, list[str]] = {}
        for number, sentence in batch:
            core = unicodedata.normalize("NFC", sentence.strip())
            try:
                parts = _SENTENCE.findall(sentence) if work.model.config.rewrite.sentences else []
                if len(parts) > 1:
                    pieces[number] = parts
                else:
                    fitting[number] = work.readable(core)
            except _Unreadable as reason:
                reasons[number] = str(reason)
                if core:
                    _log.warning("%s %d: %s; left unchanged", work.options.where, number, reason)
        rows = dict(zip(fitting, work.write([text for text, _ in fitting.values()]), strict=True))
        for number, sentence in batch:
            if number in pieces:
                yield _joined(sentence, list(_rewrites(work, pieces[number])))
            elif number in reasons:
                yield kept(sentence, reasons[number])
            else:
                yield _judged(work, number, sentence, rows[number], fitting[number][1])


def _judged(work: _Work, number: int, sentence: str, row: Row, stand_ins: StandIns) -> Rewrite:
    if row.finish_reason == "length":
        _log.warning(
            "%s %d: its rewrite has not ended after %d tokens; left unchanged",
            work.options.where,
            number,
            len(row.tokens),
        )
    logprobs = _logprobs(row)
    settings = work.model.config.rewrite
    threshold = settings.threshold if work.options.threshold is None else work.options.threshold
    text = stand_ins.take(row.text)
    told = may_add(work.model.conditions)
    return judge(settings, sentence, text, logprobs, row.finish_reason, threshold=threshold, may_add=told)


def may_add(conditions: Mapping[str, str]) -> bool:
    """Whether the caller's conditions ask for a subject that the sentence does not have (`agentless = someone`)."""
    return conditions.get("agentless") == "someone"


class Written(NamedTuple):
    """What a model wrote for a sentence, before anything is made of it; `logprobs` as in `judge`."""

    output: str
    changed: bool
    logprobs: list[float]


def written(model: LanguageModel, sentences: Sequence[str]) -> list[Written | None]:
    """What the model writes greedily for each sentence, all at once; None where it can't read it or does not end.

    For whoever judges by other means than `rewrite_sentences`: calibration is made of these.
    """
    work = _Work(model, resolve_rewriting(batch_size=max(len(sentences), 1)))
    fitting: dict[int, tuple[str, StandIns]] = {}
    for number, sentence in enumerate(sentences):
        with contextlib.suppress(_Unreadable):
            fitting[number] = work.readable(unicodedata.normalize("NFC", sentence.strip()))
    found: list[Written | None] = [None] * len(sentences)
    for number, row in zip(fitting, work.write([text for text, _ in fitting.values()]), strict=True):
        if row.finish_reason == "stop":
            text = fitting[number][1].take(row.text).strip()
            changed = text not in ("", unicodedata.normalize("NFC", sentences[number].strip()))
            found[number] = Written(text, changed, _logprobs(row))
    return found


def _logprobs(row: Row) -> list[float]:
    return row.logprobs if row.end_logprob is None else [*row.logprobs, row.end_logprob]


def _joined(sentence: str, parts: list[Rewrite]) -> Rewrite:
    """One rewrite of several sentences' ones; as sure as the least sure of those that changed."""
    changed = [part for part in parts if part.changed]
    if not changed:
        return kept(sentence, parts[0].reason)
    sure = min(part.confidence for part in changed if part.confidence is not None)
    logprob = min(part.logprob for part in changed if part.logprob is not None)
    return Rewrite(sentence, "".join(part.output for part in parts), sure, True, "", logprob)
