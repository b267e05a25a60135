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

from jslm.config import RewriteConfig
from jslm.corpora.clause_runs import clause_runs
from jslm.errors import JslmError
from jslm.infer.agreement import agreement_on
from jslm.infer.beam import write_beams
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import Rewrite, StandIns, confidence_of, judge, kept
from jslm.infer.lookup import DRAFT_TOKENS, write_greedy
from jslm.infer.programs import JaxPrograms
from jslm.infer.request import RewriteArguments, RewriteOptions, make_request, resolve_rewriting
from jslm.infer.row import Row
from jslm.infer.sentences import Unreadable, joined, parts_of, prompt_tokens, read_sentence, rewrite_prompt
from jslm.infer.state import padded_length

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# A rewrite that takes more than twice the tokens of its sentence and these is no rewrite.
_SLACK_TOKENS = 32
# Parts of sentences that are written at once; a power of two of them, as the program is compiled for their number.
_PARTS_AT_ONCE = 8
# No search found a right rewrite where the greedy one was less sure than this part of the threshold (docs/LOG.md).
_HOPE = 3
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

    `beams` (None: the model's own, `rewrite.agreement`, or 1) over 1 searches for the best of that many, ranked by
    log-probability over length**`alpha`, one sentence at a time; with `rewrite.faithful` for the best that has no other
    words than the sentence. With 1, decoding is greedy, and `lookup` makes it fast (see `lookup.write_greedy`) without
    changing it. With None it is greedy first; where that has other words than the sentence, or does not end, what has
    none takes its place, if there is one: with `rewrite.clause_characters` the sentence with the surest rewrite of a
    run of its clauses, else, with `rewrite.retry_beams`, the best of so many beams (not by ONNX, which has no beams,
    and not where the greedy one is less than a third as sure as it would have to be).
    Where a model asks for beams from the start and runs by ONNX, a warning and the reasons say so.
    `conditions` are the model's already (see `LanguageModel.with_conditions`). Raises JslmError for an argument out of
    range.
    """
    work = _Work(model, resolve_rewriting(**arguments))
    return _rewrites(work, enumerate(sentences, 1))


class _Found(NamedTuple):
    """What was written for a sentence: its text, the log-probabilities and number of the tokens, what ended it."""

    text: str
    logprobs: list[float]
    finish_reason: str | None
    tokens: int
    agreement: float = 0.0

    @staticmethod
    def of(row: Row, agreement: float = 0.0) -> _Found:
        """That of a finished row."""
        return _Found(row.text, row.all_logprobs, row.finish_reason, len(row.tokens), agreement)

    def mean(self) -> float:
        """Of the log-probabilities."""
        return sum(self.logprobs) / max(len(self.logprobs), 1)


class _Work:
    """How the rewrites of some prompts are written."""

    def __init__(self, model: LanguageModel, options: RewriteOptions) -> None:
        self.model = model
        self.options = options
        own = model.config.rewrite.agreement.beams
        self.beams = options.beams or own or 1
        # What reasons say beside "not sure enough".
        self.without = ""
        can_search = isinstance(model.programs, JaxPrograms)
        if options.beams is None and own and not can_search:
            self.beams, self.without = 1, without_beams(model.config.rewrite)
            _log.warning("rewrite: this model searches with %d beams, which ONNX has not; rewriting greedily", own)
        settings = model.config.rewrite
        self.threshold = settings.threshold_with(self.beams) if options.threshold is None else options.threshold
        retries = options.beams is None and self.beams == 1
        self.retry_beams = settings.retry_beams if retries and can_search else 0
        self.clause_characters = settings.clause_characters if retries else 0
        self._tries_again = bool(self.retry_beams or self.clause_characters)

    def write(self, sentences: list[str]) -> list[_Found]:
        """What is written for each sentence."""
        if self.beams == 1:
            return self._greedily(sentences)
        room = self._common_room([self._row(sentence) for sentence in sentences])
        found = []
        for sentence in sentences:
            ranked = self._search(sentence, self.beams, room)
            faithful = self.model.config.rewrite.faithful
            chosen = next(
                (row for row in ranked if not faithful or self._is_faithful(sentence, _Found.of(row))), ranked[0]
            )
            found.append(_Found.of(chosen, agreement_on(chosen, ranked)))
        return found

    def _greedily(self, sentences: list[str]) -> list[_Found]:
        """The greedy rewrites where they may stand; else what of the sentence's parts or of a search may, or the greedy
        ones all the same."""
        rows = [None if self.is_long(sentence) else self._row(sentence) for sentence in sentences]
        whole = [row for row in rows if row is not None]
        room = self._common_room(whole)
        self._write_rows(whole, room)
        found = []
        for sentence, row in zip(sentences, rows, strict=True):
            greedy = None if row is None else _Found.of(row)
            stands = greedy is not None and (not self._tries_again or self._is_faithful(sentence, greedy))
            found.append(greedy if greedy is not None and stands else self._otherwise(sentence, greedy))
        return found

    def _otherwise(self, sentence: str, greedy: _Found | None) -> _Found:
        runs = self._runs(sentence)
        parts = self._in_parts(sentence, runs)
        good = [part for part in parts if part.text != sentence and self._is_faithful(sentence, part)]
        if good:
            return max(good, key=_Found.mean)
        if greedy is None:
            # None of a long sentence's parts may change; what was tried says why.
            tried = [part for part in parts if part.text != sentence] or parts
            unwritten = _Found("", [], "length", 0) if runs else _Found(sentence, [], "stop", 0)
            return tried[0] if tried else unwritten
        settings = self.model.config.rewrite
        # By the model's own threshold, whatever the caller's: what is written does not hang on what is shown of it.
        if not self.retry_beams or (confidence_of(settings, greedy.logprobs) or 0.0) < settings.threshold / _HOPE:
            return greedy
        # None is looked for that is much longer than the sentence, as it would have other words.
        tokens = self._tokens(sentence)
        most = min(tokens + _SLACK_TOKENS, self._room(tokens) - tokens)
        room = 2 * padded_length(tokens, self._context) + _SLACK_TOKENS
        ranked = self._search(sentence, self.retry_beams, room, most)
        return next((other for other in map(_Found.of, ranked) if self._is_faithful(sentence, other)), greedy)

    def _in_parts(self, sentence: str, runs: list[tuple[int, int]]) -> list[_Found]:
        """The sentence with each of the runs rewritten by itself, of those whose rewrite ends."""
        rows = [(run, self._row(part)) for run in runs if self._fits(part := sentence[slice(*run)])]
        # The longest part that there can be, so that few programs do for all.
        length = padded_length(self.clause_characters, self._context)
        found = []
        for start in range(0, len(rows), _PARTS_AT_ONCE):
            batch = rows[start : start + _PARTS_AT_ONCE]
            count = 1 << (len(batch) - 1).bit_length()
            spare = [self._row(sentence[slice(*batch[0][0])]) for _ in range(count - len(batch))]
            self._write_rows([*(row for _, row in batch), *spare], self._room(length), length)
            for (begin, end), row in batch:
                if row.finish_reason == "stop" and row.text.strip():
                    found.append(_Found.of(row)._replace(text=sentence[:begin] + row.text.strip() + sentence[end:]))
        return found

    def _runs(self, sentence: str) -> list[tuple[int, int]]:
        """(start, end) of the runs of clauses that something may change in."""
        if not self.clause_characters:
            return []
        word = "" if may_add(self.model) else self.model.config.rewrite.clause_word
        holds = re.compile(rf"\b{re.escape(word)}\b" if word else "", re.IGNORECASE)
        runs = clause_runs(sentence, self.clause_characters)
        return [run for run in runs if holds.search(sentence, *run)]

    def is_long(self, sentence: str) -> bool:
        """Whether a sentence has no room in the context, and runs of clauses that have."""
        if not self.clause_characters or not sentence or self._fits(sentence):
            return False
        return any(self._fits(sentence[slice(*run)]) for run in clause_runs(sentence, self.clause_characters))

    def _fits(self, text: str) -> bool:
        """Whether there is room for it, for what begins a document, and for a token of its rewrite."""
        return self._tokens(text) + 2 <= self._context

    def _write_rows(self, rows: list[Row], room: int, length: int = 0) -> None:
        draft = DRAFT_TOKENS if self.options.lookup else 0
        write_greedy(self.model, rows, draft=draft, room=room, length=length)

    def _common_room(self, rows: list[Row]) -> int:
        """The same for all prompts that are padded to one length: few programs are compiled."""
        return max((self._room(padded_length(len(row.ids), self._context)) for row in rows), default=0)

    def _search(self, sentence: str, beams: int, room: int, most: int | None = None) -> list[Row]:
        make_row = functools.partial(self._row, sentence, most)
        return [row for _, row in write_beams(self.model, make_row, beams, self.options.alpha, room=room)]

    def _is_faithful(self, sentence: str, found: _Found) -> bool:
        """Whether a rewrite has ended, and has no other words than its sentence."""
        told = may_add(self.model)
        return found.finish_reason == "stop" and not unfaithful(sentence, found.text.strip(), may_add=told)

    @property
    def _context(self) -> int:
        return self.model.config.model.context_length

    def _room(self, tokens: int) -> int:
        most = self.options.max_new_tokens
        return tokens + (_most_tokens(tokens) if most is None else most)

    def _tokens(self, sentence: str) -> int:
        return prompt_tokens(self.model, rewrite_prompt(self.model.config.data, sentence))

    def _row(self, sentence: str, most: int | None = None) -> Row:
        """An empty one, of `most` new tokens at most (None: as many as any rewrite may have)."""
        tokens = self._tokens(sentence)
        most = self._room(tokens) - tokens if most is None else most
        request = make_request(self.model.config.sample, max_new_tokens=most, greedy=True, stop="\n")
        return self.model.row(rewrite_prompt(self.model.config.data, sentence), 0, request)


def _rewrites(work: _Work, numbered: Iterable[tuple[int, str]]) -> Iterator[Rewrite]:
    """Of sentences with the numbers that warnings give them; those of one text have its number."""
    numbered = iter(numbered)
    while batch := list(itertools.islice(numbered, work.options.batch_size)):
        reasons: dict[int, str] = {}
        fitting: dict[int, tuple[str, StandIns]] = {}
        pieces: dict[int, list[str]] = {}
        for place, (number, sentence) in enumerate(batch):
            if not isinstance(sentence, str):
                raise JslmError(f"{work.options.where} {number} = {sentence!r}; expected a text")
            core = unicodedata.normalize("NFC", sentence.strip())
            try:
                if len(parts := parts_of(work.model, sentence)) > 1:
                    pieces[place] = parts
                else:
                    fitting[place] = read_sentence(work.model, core, any_length=work.is_long(core))
            except Unreadable as reason:
                reasons[place] = str(reason)
                if core:
                    _log.warning("%s %d: %s; left unchanged", work.options.where, number, reason)
        rows = dict(zip(fitting, work.write([text for text, _ in fitting.values()]), strict=True))
        for place, (number, sentence) in enumerate(batch):
            if place in pieces:
                yield joined(sentence, list(_rewrites(work, [(number, part) for part in pieces[place]])))
            elif place in reasons:
                yield kept(sentence, reasons[place])
            else:
                yield _judged(work, number, sentence, rows[place], fitting[place][1])


def _judged(work: _Work, number: int, sentence: str, found: _Found, stand_ins: StandIns) -> Rewrite:
    if found.finish_reason == "length":
        _log.warning(
            "%s %d: its rewrite has not ended after %d tokens; left unchanged",
            work.options.where,
            number,
            found.tokens,
        )
    if found.finish_reason == "stop" and not found.logprobs:
        # No part of it can change, so that none was written.
        return kept(sentence, "nothing to change")
    return judge(
        work.model.config.rewrite,
        sentence,
        stand_ins.take(found.text),
        found.logprobs,
        found.finish_reason,
        threshold=work.threshold,
        may_add=may_add(work.model),
        beams=work.beams,
        agreement=found.agreement,
        without=work.without,
    )


def most_tokens(model: LanguageModel, prompt: str) -> int:
    """The tokens at most of the rewrite that is asked for by a prompt (of `rewrite_prompt`)."""
    return _most_tokens(prompt_tokens(model, prompt))


def _most_tokens(prompt_tokens: int) -> int:
    return 2 * prompt_tokens + _SLACK_TOKENS


def without_beams(config: RewriteConfig) -> str:
    """What is to be said where a rewrite was not found with the beams that its model is calibrated for."""
    own = config.agreement.beams
    return f" (without the {own} beams that the model is surer with)" if own else ""


def may_add(model: LanguageModel, conditions: Mapping[str, str] | None = None) -> bool:
    """Whether conditions ask for a subject that the sentence does not have (`agentless = someone`): the caller's, by
    default those that the model has, or what is built into its graph."""
    asked = model.conditions if conditions is None else conditions
    return {**model.fixed_conditions, **asked}.get("agentless") == "someone"


class Written(NamedTuple):
    """What a model wrote for a sentence, before anything is made of it; `logprobs`, `agreement` as in `judge`."""

    output: str
    changed: bool
    logprobs: list[float]
    agreement: float = 0.0


def written(model: LanguageModel, sentences: Sequence[str], beams: int | None = None) -> list[Written | None]:
    """What the model writes for each sentence, all at once; None where it can't read it or does not end.

    `beams` as in `rewrite_sentences`. For whoever judges by other means than it does: calibration is made of these.
    """
    work = _Work(model, resolve_rewriting(batch_size=max(len(sentences), 1), beams=beams))
    fitting: dict[int, tuple[str, StandIns]] = {}
    for number, sentence in enumerate(sentences):
        core = unicodedata.normalize("NFC", sentence.strip())
        with contextlib.suppress(Unreadable):
            fitting[number] = read_sentence(work.model, core, any_length=work.is_long(core))
    results: list[Written | None] = [None] * len(sentences)
    found = work.write([text for text, _ in fitting.values()])
    for number, one in zip(fitting, found, strict=True):
        if one.finish_reason == "stop":
            text = fitting[number][1].take(one.text).strip()
            changed = text not in ("", unicodedata.normalize("NFC", sentences[number].strip()))
            results[number] = Written(text, changed, one.logprobs, one.agreement)
    return results
