"""A `tokenizer.json` that reads every text as ordinary text: no spelling reaches a control token.

The library turns a special token's spelling into its id in two places: among the added tokens, before all else, and in
the model's own vocabulary, where a Unigram model, a list of words, or a merge finds it as any other piece. Here the
control tokens keep their ids (those after them would move otherwise) and get spellings that nobody can guess.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from typing import Any


def ordinary_only(fields: Mapping[str, Any], control: set[str]) -> dict[str, Any]:
    """The JSON object of the tokenizer `fields` in which `control`, names of tokens, are out of any text's reach.

    The token for what is unknown is out of reach by its spelling too; what the vocabulary lacks still becomes it.
    Nothing goes around a text (no post-processor). Raises KeyError, TypeError or ValueError for a damaged file.
    """
    model = dict(fields["model"])
    names = control | unknown_token(model)
    spelled = functools.partial(_hidden, names=names)
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, Mapping):
        model["vocab"] = {spelled(token): index for token, index in vocabulary.items()}
    elif vocabulary:
        # A piece that nobody spells has a score all the same: the lowest one is what the unknown's is made from.
        lowest = min(score for _, score in vocabulary)
        hidden = ([spelled(token), lowest if token in names else score] for token, score in vocabulary)
        model["vocab"] = list(hidden)
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = spelled(model["unk_token"])
    if model.get("merges"):
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [merge for merge in model["merges"] if not names & _spellings(merge, prefix)]
    added = [{**token, "content": spelled(token["content"])} for token in fields.get("added_tokens") or []]
    return {**fields, "model": model, "added_tokens": added, "post_processor": None}


def unknown_token(model: Mapping[str, Any]) -> set[str]:
    """The name of the token for what a model's vocabulary lacks, where it has one."""
    if isinstance(model.get("unk_token"), str):
        return {model["unk_token"]}
    index = model.get("unk_id")
    return set() if index is None else {model["vocab"][index][0]}


def _hidden(name: str, names: set[str]) -> str:
    # More than one character, so that a Unigram model keeps its way out by the unknown token.
    return f"{_secret()} {name}" if name in names else name


@functools.cache
def _secret() -> str:
    """Anew in each process, so that no text has it; ids do not depend on it."""
    return secrets.token_hex(16)


def _spellings(merge: Any, prefix: str) -> set[str]:
    """The two parts of a merge and what they make."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return {left, right, left + right.removeprefix(prefix)}
