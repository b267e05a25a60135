"""Prompt/completion pairs: documents of which the first part is read and never learned."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from jslm.config import DataConfig
from jslm.errors import JslmError


class Part(NamedTuple):
    """A stretch of a document that is tokenised by itself; with `is_special` its text is a special token's name."""

    text: str
    is_learned: bool = True
    is_special: bool = False


def pair_parts(text: str, prompt_end: str) -> list[Part]:
    """The prompt of a document, where it has one, and its completion; raises JslmError as `split_pair`, and where
    there is nothing after the prompt."""
    prompt, completion = split_pair(text, prompt_end)
    if prompt and not completion.strip():
        raise JslmError(f"the pair has no completion after the prompt {_shown(prompt)}; give it one, or drop it")
    return [Part(prompt, is_learned=False), Part(completion)] if prompt else [Part(completion)]


def split_pair(text: str, prompt_end: str) -> tuple[str, str]:
    """(prompt, completion) of a document; the prompt goes up to the first `prompt_end`, and ends with it.

    The two are tokenised apart, so that a prompt has the same tokens when it is all there is, as in sampling. Without a
    `prompt_end` all of the text is completion. Raises JslmError where it is not in the text.
    """
    if not prompt_end:
        return "", text
    prompt, found, completion = text.partition(prompt_end)
    if not found:
        raise JslmError(
            f"no data.prompt_end = {prompt_end!r} in the document {_shown(text)}; each has to "
            "be a prompt, that text, and a completion: see data.template and data.cleaners"
        )
    return prompt + found, completion


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """(literal, name of the column after it) of each part of a `data.template`; ValueError where it is malformed."""
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]


def border(template: str, prompt_end: str) -> tuple[int, int] | None:
    """(part, end in its literal) of the `template_parts` where `prompt_end` first stands; None where in none."""
    for index, (literal, _) in enumerate(template_parts(template)):
        if prompt_end and prompt_end in literal:
            return index, literal.index(prompt_end) + len(prompt_end)
    return None


def shown_prompt(data: DataConfig, fields: Mapping[str, Any]) -> str:
    """What a model that learned pairs reads before it writes: a pair of its training data up to the completion.

    `fields` is a record without its completion; the sentence is its "prompt". With a `data.template` this is all of it
    up to `data.prompt_end`, or to `{completion}` where that is empty; else the sentence and `data.prompt_end`, or a
    line break where there is none. Raises KeyError for a column of the template that `fields` lacks.
    """
    parts, found = template_parts(data.template), border(data.template, data.prompt_end)
    names = [name for _, name in parts]
    if found is None and "completion" not in names:
        return str(fields["prompt"]) + (data.prompt_end or "\n")
    last = names.index("completion") if found is None else found[0]
    head = "".join(literal + _text(fields, name) for literal, name in parts[:last])
    return head + parts[last][0][: None if found is None else found[1]]


def learns_rewrites(data: DataConfig) -> bool:
    """Whether a model of such data has learned pairs of which the first is one text: what rewriting is for."""
    if data.messages or not (data.prompt_end or "{completion}" in data.template):
        return False
    try:
        shown_prompt(data, {"prompt": ""})
    except KeyError:
        return False
    return True


def _text(fields: Mapping[str, Any], name: str | None) -> str:
    value = "" if name is None else fields[name]
    return "" if value is None else str(value)


def check_preference(chosen: str, rejected: str) -> None:
    """Raises JslmError where the answers of a preference (`data.rejected`) are not two different ones."""
    if not chosen or not rejected:
        raise JslmError(f"data.rejected: the {'rejected' if chosen else 'chosen'} answer is empty; give two answers")
    if chosen == rejected:
        raise JslmError(f"data.rejected: both answers are {_shown(chosen)}, which prefers nothing; drop the record")


def _shown(text: str) -> str:
    return repr(text if len(text) < 64 else text[:60] + "...")
