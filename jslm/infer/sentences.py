"""Sentences as a rewriter reads them: one by one, each in characters that it knows, or why it can't be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.infer.judgement import BLANK, UNCHANGED, Rewrite, StandIns, kept, shown_character
from jslm.prompts.pairs import shown_prompt

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel

# What a sentence ends with: marks, closing ones, white space. Tried once a run of marks, so in linear time.
_END = re.compile(r"(?<![.!?…])([.!?…]+)[\"'”’)\]]*(?=\s)\s*")
# A full stop behind these is no end, nor behind the others where a small letter or a digit follows.
_TITLE: Final = re.compile(
    r"mr|mrs|ms|messrs|dr|prof|rev|hon|gen|col|lt|sgt|capt|cpl|gov|sen|st|mt|vs|viz|cf|fig|ph\.d"
)
_SHORT: Final = re.compile(
    "al|etc|no|nos|vol|pp|ca|approx|inc|ltd|co|corp|jr|sr|ft|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_BEFORE_WORD: Final = re.compile(r"[\s\"'“‘(\[]")
_WHITE: Final = re.compile(r"(?<=\S)\s+")
_LONGEST_SHORT = 10
_SHOWN = 10


class Unreadable(Exception):
    """A sentence that the model can't read; its text says why."""


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space behind it: together they are the text. A blank line ends one,
    whatever stands before it."""
    parts, start = [], 0
    for white in _WHITE.finditer(text):
        if white.group().count("\n") > 1:
            parts += _of_a_paragraph(text[start : white.end()])
            start = white.end()
    return parts + _of_a_paragraph(text[start:])


def _of_a_paragraph(text: str) -> list[str]:
    parts, start = [], 0
    for end in _END.finditer(text):
        # A mark alone is none yet.
        if end.end(1) - start > 1 and not _is_abbreviation(text, end):
            parts.append(text[start : end.end()])
            start = end.end()
    return [*parts, text[start:]] if start < len(text) else parts


def _is_abbreviation(text: str, end: re.Match[str]) -> bool:
    """Whether a full stop before white space is that of "Mr.", of the initials of a name, or of "etc." and the like."""
    at = end.start()
    if text[at] != "." or not text[at + 1].isspace():
        return False
    raw = _BEFORE_WORD.split(text[max(0, at - _LONGEST_SHORT) : at])[-1]
    word, follows = raw.lower(), text[end.end() : end.end() + 1]
    parts = word.split(".")
    initials = all(len(part) == 1 and part not in "0123456789" for part in parts)
    if initials and (len(parts) > 1 or (raw.isupper() and raw != "I")):
        return True
    return bool(_TITLE.fullmatch(word)) or (bool(_SHORT.fullmatch(word)) and _goes_on(follows))


def _goes_on(character: str) -> bool:
    return character.islower() or (character.isascii() and character.isdigit())


def parts_of(model: LanguageModel, text: str) -> list[str]:
    """What the model rewrites one by one: the sentences of a text with `rewrite.sentences`, else the text; at least
    one."""
    return (split_sentences(text) if model.config.rewrite.sentences else []) or [text]


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


def prompt_tokens(model: LanguageModel, prompt: str) -> int:
    """The tokens of a prompt as the model reads it, without one that begins a document."""
    return len(model.tokenizer.encode(model.as_read(prompt)))


def read_sentence(model: LanguageModel, core: str, *, any_length: bool = False) -> tuple[str, StandIns]:
    """(the sentence as the model reads it, what stands for characters that it does not know).

    `core` has no white space around it, and is in Unicode NFC. `any_length`: it need not fit into the context, as it is
    read in parts. Raises Unreadable.
    """
    tokenizer, data, context = model.tokenizer, model.config.data, model.config.model.context_length
    if not core:
        raise Unreadable(BLANK)
    # A token before it and one after it at least: what begins a document, and the rewrite.
    tokens = prompt_tokens(model, rewrite_prompt(data, core))
    if tokens + 2 > context and not any_length:
        raise Unreadable(f"{tokens} tokens, the context of this model is {context}")
    read = model.as_read(core)
    try:
        stand_ins = StandIns(tokenizer, read)
    except KeyError:
        unknown = tokenizer.unknown_characters(read)
        shown = ", ".join(map(shown_character, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        raise Unreadable(f"the tokenizer has never seen {shown}") from None
    if (end := data.prompt_end or "\n") in core:
        spelled = end.replace("\n", "\\n").replace("\t", "\\t")
        raise Unreadable(f"'{spelled}' in it, which for this model ends a prompt")
    return stand_ins.put(core), stand_ins


def joined(sentence: str, parts: Sequence[Rewrite]) -> Rewrite:
    """One rewrite of several sentences' ones; as sure as the least sure of those that changed.

    Where all stay, it stays as the first that might have changed: one with nothing to change counts after the others,
    a blank one last.
    """
    changed = [part for part in parts if part.changed]
    if not changed:
        told = min(parts, key=lambda part: (part.reason == UNCHANGED) + 2 * (part.reason == BLANK))
        return kept(sentence, told.reason, told.confidence, told.logprob)
    sure = min(part.confidence for part in changed if part.confidence is not None)
    logprob = min(part.logprob for part in changed if part.logprob is not None)
    return Rewrite(sentence, "".join(part.output for part in parts), sure, True, "", logprob)
