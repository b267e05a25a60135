"""Prompt/completion pairs: documents of which the first part is read and never learned."""

from __future__ import annotations

from typing import NamedTuple

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
        shown = repr(prompt if len(prompt) < 64 else prompt[:60] + "...")
        raise JslmError(f"the pair has no completion after the prompt {shown}; give it one, or drop it")
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
        shown = repr(text if len(text) < 64 else text[:60] + "...")
        raise JslmError(
            f"no data.prompt_end = {prompt_end!r} in the document {shown}; each has to "
            "be a prompt, that text, and a completion: see data.template and data.cleaners"
        )
    return prompt + found, completion


def check_preference(chosen: str, rejected: str | None) -> None:
    """Raises JslmError where the answers of a preference (`data.rejected`) are not two different ones."""
    if rejected is None:
        raise JslmError("data.rejected: no record with a rejected answer, but plain text; give records, as in JSONL")
    if not chosen or not rejected:
        raise JslmError(f"data.rejected: the {'rejected' if chosen else 'chosen'} answer is empty; give two answers")
    if chosen == rejected:
        shown = repr(chosen if len(chosen) < 64 else chosen[:60] + "...")
        raise JslmError(f"data.rejected: both answers are {shown}, which prefers nothing; drop the record")
