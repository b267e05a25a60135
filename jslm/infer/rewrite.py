"""Rewriting: a sentence in, the model's version of it out, or the sentence itself and why it stays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

from jslm.config import RewriteConfig
from jslm.infer.agreement import agreement_on
from jslm.infer.beam import write_beams
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import Rewrite, StandIns, judge, kept
from jslm.infer.lookup import DRAFT_TOKENS, write_greedy
from jslm.infer.programs import JaxPrograms
from jslm.infer.request import RewriteArguments, RewriteOptions, make_request, resolve_rewriting
from jslm.infer.row import Row
from jslm.infer.sentences import Unreadable, joined, parts_of, read_sentence, rewrite_prompt
from jslm.infer.state import padded_length

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# A rewrite that takes more than twice the tokens of its sentence and these is no rewrite.
_SLACK_TOKENS = 32
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
    changing it. With None and `rewrite.retry_beams`, it is greedy first; where that has other words than the sentence,
    or does not end, the best of so many beams that has none takes its place, if there is one (not by ONNX, which has no
    beams). Where a model asks for beams from the start and runs by ONNX, a warning and the reasons say so.
    `conditions` are the model's already (see `LanguageModel.with_conditions`). Raises JslmError for an argument out of
    range.
    """
    work = _Work(model, resolve_rewriting(**arguments))
    return _rewrites(work, enumerate(sentences, 1))


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
        retries = options.beams is None and self.beams == 1 and can_search
        self.retry_beams = model.config.rewrite.retry_beams if retries else 0

    def write(self, sentences: list[str]) -> list[tuple[Row, float]]:
        """(a finished row, how far the beams agree on it) a sentence."""
        rows = [self._row(sentence) for sentence in sentences]
        # The same for all prompts that are padded to one length: few programs are compiled.
        room = max((self._room(padded_length(len(row.ids), self._context)) for row in rows), default=0)
        options = self.options
        if self.beams == 1:
            write_greedy(self.model, rows, draft=DRAFT_TOKENS if options.lookup else 0, room=room)
            if self.retry_beams:
                rows = [self._retried(sentence, row, room) for sentence, row in zip(sentences, rows, strict=True)]
            return [(row, 0.0) for row in rows]
        found = []
        for sentence in sentences:
            ranked = self._search(sentence, self.beams, room)
            faithful = self.model.config.rewrite.faithful
            chosen = next((row for row in ranked if not faithful or self._is_faithful(sentence, row)), ranked[0])
            found.append((chosen, agreement_on(chosen, ranked)))
        return found

    def _retried(self, sentence: str, row: Row, room: int) -> Row:
        """The greedy rewrite where it may stand; else the best of a search that may, or the greedy one all the same."""
        if self._is_faithful(sentence, row):
            return row
        ranked = self._search(sentence, self.retry_beams, room)
        return next((other for other in ranked if self._is_faithful(sentence, other)), row)

    def _search(self, sentence: str, beams: int, room: int) -> list[Row]:
        make_row = functools.partial(self._row, sentence)
        return [row for _, row in write_beams(self.model, make_row, beams, self.options.alpha, room=room)]

    def _is_faithful(self, sentence: str, row: Row) -> bool:
        """Whether a rewrite has ended, and has no other words than its sentence."""
        told = may_add(self.model.conditions)
        return row.finish_reason == "stop" and not unfaithful(sentence, row.text.strip(), may_add=told)

    @property
    def _context(self) -> int:
        return self.model.config.model.context_length

    def _room(self, tokens: int) -> int:
        most = self.options.max_new_tokens
        return tokens + (_most_tokens(tokens) if most is None else most)

    def _row(self, sentence: str) -> Row:
        prompt = rewrite_prompt(self.model.config.data, sentence)
        tokens = len(self.model.tokenizer.encode(self.model.as_read(prompt)))
        most = self._room(tokens) - tokens
        request = make_request(self.model.config.sample, max_new_tokens=most, greedy=True, stop="\n")
        return self.model.row(prompt, 0, request)


def _rewrites(work: _Work, numbered: Iterable[tuple[int, str]]) -> Iterator[Rewrite]:
    """Of sentences with the numbers that warnings give them; those of one text have its number."""
    numbered = iter(numbered)
    while batch := list(itertools.islice(numbered, work.options.batch_size)):
        reasons: dict[int, str] = {}
        fitting: dict[int, tuple[str, StandIns]] = {}
        pieces: dict[int, list[str]] = {}
        for place, (number, sentence) in enumerate(batch):
            core = unicodedata.normalize("NFC", sentence.strip())
            try:
                if len(parts := parts_of(work.model, sentence)) > 1:
                    pieces[place] = parts
                else:
                    fitting[place] = read_sentence(work.model, core)
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
                yield _judged(work, number, sentence, *rows[place], fitting[place][1])


def _judged(work: _Work, number: int, sentence: str, row: Row, agreement: float, stand_ins: StandIns) -> Rewrite:
    if row.finish_reason == "length":
        _log.warning(
            "%s %d: its rewrite has not ended after %d tokens; left unchanged",
            work.options.where,
            number,
            len(row.tokens),
        )
    logprobs = row.all_logprobs
    settings = work.model.config.rewrite
    threshold = settings.threshold_with(work.beams) if work.options.threshold is None else work.options.threshold
    return judge(
        settings,
        sentence,
        stand_ins.take(row.text),
        logprobs,
        row.finish_reason,
        threshold=threshold,
        may_add=may_add(work.model.conditions),
        beams=work.beams,
        agreement=agreement,
        without=work.without,
    )


def most_tokens(model: LanguageModel, prompt: str) -> int:
    """The tokens at most of the rewrite that is asked for by a prompt (of `rewrite_prompt`)."""
    return _most_tokens(len(model.tokenizer.encode(model.as_read(prompt))))


def _most_tokens(prompt_tokens: int) -> int:
    return 2 * prompt_tokens + _SLACK_TOKENS


def without_beams(config: RewriteConfig) -> str:
    """What is to be said where a rewrite was not found with the beams that its model is calibrated for."""
    own = config.agreement.beams
    return f" (without the {own} beams that the model is surer with)" if own else ""


def may_add(conditions: Mapping[str, str]) -> bool:
    """Whether the caller's conditions ask for a subject that the sentence does not have (`agentless = someone`)."""
    return conditions.get("agentless") == "someone"


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
        with contextlib.suppress(Unreadable):
            fitting[number] = read_sentence(work.model, unicodedata.normalize("NFC", sentence.strip()))
    found: list[Written | None] = [None] * len(sentences)
    rows = work.write([text for text, _ in fitting.values()])
    for number, (row, agreement) in zip(fitting, rows, strict=True):
        if row.finish_reason == "stop":
            text = fitting[number][1].take(row.text).strip()
            changed = text not in ("", unicodedata.normalize("NFC", sentences[number].strip()))
            found[number] = Written(text, changed, row.all_logprobs, agreement)
    return found
