"""Conversations to what a model reads and learns, through chat templates: Jinja, as Hugging Face's models have them.

Preparing, sampling and serving all render here, so that a prompt has the tokens that it had in training.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prompts.chat_templates import BUILT_IN, NEEDED_TOKENS
from jslm.prompts.conversations import Message, parse_conversation
from jslm.prompts.pairs import Part, pair_parts
from jslm.tokenizer import END_OF_TEXT, Tokenizer

_log = logging.getLogger("jslm")
TEMPLATE_NAME = "chat_template.jinja"
# Stand for contents while a template is rendered: no text has these two characters for a reason.
_MARK = re.compile("\ue000([0-9]+)\ue001")


class _Piece(NamedTuple):
    """A stretch of rendered text: the template's own (`message` None), or the content of a message."""

    text: str
    message: int | None


class ChatTemplate:
    """A template and the tokenizer whose tokens it writes. Contents of messages are never special tokens."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer | None = None,
        where: str = "chat template",
        special_tokens: Sequence[str] = (),
    ) -> None:
        """`where` names the template in errors. Before there is a `tokenizer`, documents fall into the same parts by
        the `special_tokens` that it will have besides `<|endoftext|>`; there are no prompts then.

        The template has `messages`, `add_generation_prompt`, `bos_token`, `eos_token` and `unk_token` where there are
        such, and `tools` and `documents`, which are none. Raises JslmError where `source` is no Jinja template.
        """
        self.source = source
        self._tokenizer = tokenizer
        self._special = tokenizer.special_tokens if tokenizer else dict.fromkeys([END_OF_TEXT, *special_tokens], 0)
        names = sorted(self._special, key=lambda name: (-len(name), name))
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")
        named = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
        self._named = named if tokenizer is None else tokenizer.named_tokens
        self._bos, self._eos = (self._named.get(key, "") for key in named)
        self._template = _jinja().compile_template(source, where)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation, by default up to where the next answer begins.

        Raises JslmError where the template refuses the messages.
        """
        return self._template(
            messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **self._named
        )

    def prompt_ids(self, messages: Sequence[Message], *, starts_document: bool = False) -> list[int]:
        """What a model reads before it answers: the beginning of what it was trained on, token for token.

        `starts_document` puts the token that begins a document first where the template does not. Raises JslmError as
        `render`, and where a content spells a special token and the template changes contents.
        """
        tokenizer = self._tokenizer
        assert tokenizer is not None
        with _jinja().one_moment():
            whole = self.render(messages)
            pieces = self._pieces(messages, whole, add_generation_prompt=True)
            try:
                borders = [*chain.from_iterable(self._turns(messages, whole, pieces))]
            except JslmError:
                # Templates of others may show past turns otherwise than they were answered.
                borders = []
        ids: list[int] = []
        for part in self._parts(pieces, borders):
            ids += [self._special[part.text]] if part.is_special else tokenizer.encode(part.text)
        return [tokenizer.bos_id, *ids] if starts_document and ids[:1] != [tokenizer.bos_id] else ids

    def document(self, messages: Sequence[Message]) -> list[Part]:
        """The parts of a training document, without the tokens that begin and end each document.

        Learned is what follows the prompt of each assistant turn, up to and with the first special token after its
        content (without one: all that the template adds to the turn). Raises JslmError as `prompt_ids`, and where a
        turn's prompt and answer are not the beginning of the whole.
        """
        with _jinja().one_moment():
            whole = self.render(messages, add_generation_prompt=False)
            pieces = self._pieces(messages, whole, add_generation_prompt=False)
            parts = self._parts(pieces, [*chain.from_iterable(self._turns(messages, whole, pieces))])
        if parts and parts[0] == Part(self._bos, is_learned=False, is_special=True):
            del parts[0]
        if parts and parts[-1].is_special and parts[-1].text == self._eos:
            # What ends a document is learned as the part before it is.
            end = parts.pop()
            if end.is_learned != (bool(parts) and parts[-1].is_learned):
                parts.append(Part("", end.is_learned))
        return parts or [Part("")]

    @functools.cached_property
    def _role_marks(self) -> re.Pattern[str]:
        """Added words by which the template says whose turn it is, where its tokenizer calls them no special tokens."""
        words = self._tokenizer.added_words if self._tokenizer else frozenset()
        found: list[str] = []
        if words:
            turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
            with contextlib.suppress(JslmError):
                shown = self.render(turns)
                found = sorted((word for word in words if word.strip() and word in shown), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, found)) or "(?!)")

    @functools.cached_property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer, besides the end-of-text token: what the template puts after one."""
        turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
        try:
            pieces = self._pieces(turns, self.render(turns), add_generation_prompt=True)
        except JslmError:
            return ()
        numbers = [piece.message for piece in pieces]
        if 1 not in numbers or 2 not in numbers:
            return ()
        after = "".join(piece.text for piece in pieces[numbers.index(1) + 1 : numbers.index(2)])
        plain, *special = self._special_pattern.split(after)
        if special:
            return () if special[0] == self._eos else tuple(dict.fromkeys([plain + special[0], special[0]]))
        return (after,) if after.strip() else ()

    def _pieces(self, messages: Sequence[Message], whole: str, *, add_generation_prompt: bool) -> list[_Piece]:
        """`whole`, the rendered messages, as what the template says itself and what the messages say.

        Rendering marks in place of contents shows which is which, whatever a content pretends to be.
        """
        for number, message in enumerate(messages):
            if found := self._special_pattern.search(message["role"]):
                raise JslmError(f"messages[{number}].role holds {found[0]}, which is a special token; remove it")
        marked = [{**message, "content": f"\ue000{number}\ue001"} for number, message in enumerate(messages)]
        try:
            shape = self.render(marked, add_generation_prompt=add_generation_prompt)
        except JslmError:
            # A template may look at what is said.
            shape = None
        runs = [] if shape is None else _MARK.split(shape)
        pieces, at = [_Piece(runs[0], None)] if runs else [], len(runs[0]) if runs else 0
        for number, literal in zip(map(int, runs[1::2]), runs[2::2], strict=True):
            content = messages[number]["content"] if number < len(messages) else ""
            shown = next(
                # Many templates trim what people write.
                (text for text in (content, content.strip()) if whole.startswith(text + literal, at)),
                None,
            )
            if shown is None:
                break
            pieces += [_Piece(shown, number), _Piece(literal, None)]
            at += len(shown) + len(literal)
        if "".join(piece.text for piece in pieces) == whole:
            return pieces
        for number, message in enumerate(messages):
            content = message["content"]
            if found := self._special_pattern.search(content) or self._role_marks.search(content):
                raise JslmError(
                    f"messages[{number}].content holds {found[0]}, which is a special token, and the chat template "
                    "changes contents, so that it can't be told from the template's own; remove it"
                )
        if shape is not None and self._special_pattern.findall(shape) != self._special_pattern.findall(whole):
            # Spelled in bits between which the template leaves something out, for one.
            raise JslmError(
                "the chat template changes contents, and writes other special tokens for these than for others, so "
                "that they can't be told from what was said; say it in other words, or mend the template"
            )
        return [_Piece(whole, None)]

    def _turns(self, messages: Sequence[Message], whole: str, pieces: Sequence[_Piece]) -> list[tuple[int, int]]:
        """The characters [start, end) of `whole` that are an assistant turn, for each of them."""
        ends: dict[int | None, int] = {}
        at = 0
        for piece in pieces:
            at += len(piece.text)
            ends[piece.message] = at
        turns = []
        last = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:number])
            until = self.render(messages[: number + 1], add_generation_prompt=False)
            if not (whole.startswith(until) and until.startswith(before) and len(before) >= last):
                raise JslmError(
                    f"messages[{number}]: the chat template renders the conversation up to this answer otherwise than "
                    "as the beginning of the whole, so that a prompt would differ from training; mend the template"
                )
            # What begins the next turn is no part of this one, whichever the template writes it with.
            found = self._special_pattern.search(until, ends.get(number, len(before)))
            last = found.end() if found else len(until)
            turns.append((len(before), last))
        return turns

    def _cuts_of_marks(self, pieces: Sequence[_Piece]) -> set[int]:
        """Places inside of role marks that messages say, or have a part in: in two parts they are ordinary text."""
        whole = "".join(piece.text for piece in pieces)
        ends = [0, *accumulate(len(piece.text) for piece in pieces)]
        said = [span for piece, span in zip(pieces, pairwise(ends), strict=True) if piece.message is not None]
        marks = [match.span() for match in self._role_marks.finditer(whole)]
        return {start + 1 for start, end in marks if any(first < end and start < last for first, last in said)}

    def _parts(self, pieces: Sequence[_Piece], borders: Sequence[int]) -> list[Part]:
        """The pieces joined up to special tokens and `borders`: each turn begins at one and ends at the next."""
        parts: list[Part] = []
        joins = False
        at = 0
        apart = self._cuts_of_marks(pieces)
        for piece in pieces:
            runs = [piece.text] if piece.message is not None else self._special_pattern.split(piece.text)
            for number, run in enumerate(runs):
                cuts = sorted(border for border in {*borders, *apart} if at < border < at + len(run))
                for start, end in zip([at, *cuts], [*cuts, at + len(run)], strict=True):
                    is_learned = bisect_right(borders, start) % 2 == 1
                    text = run[start - at : end - at]
                    if number % 2:
                        parts.append(Part(text, is_learned, is_special=True))
                        joins = False
                    elif text:
                        joins = joins and start not in borders and start not in apart
                        if joins:
                            parts[-1] = Part(parts[-1].text + text, is_learned)
                        else:
                            parts.append(Part(text, is_learned))
                        joins = True
                at += len(run)
        return parts


def splitter(
    data: DataConfig, tokenizer: Tokenizer | None = None, special_tokens: Sequence[str] = ()
) -> Callable[[str], list[Part]]:
    """How a document of this data falls into parts: a conversation, a pair, or all of one piece.

    `tokenizer` and `special_tokens` as for `ChatTemplate`. Raises JslmError for a bad template, and what it
    returns raises it for a bad document.
    """
    if not data.messages:
        return lambda text: pair_parts(text, data.prompt_end)
    template = ChatTemplate(
        template_source(data.chat_template), tokenizer, f"data.chat_template {data.chat_template}", special_tokens
    )
    return lambda text: template.document(parse_conversation(text))


def template_source(name: str) -> str:
    """The template that `data.chat_template` names. Raises JslmError where there is none."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    path = Path(name)
    if path.suffix != ".jinja":
        raise JslmError(
            f"data.chat_template = {name!r}: no template of that name; there are {', '.join(BUILT_IN)}, or give the "
            "path of a file that ends in .jinja"
        )
    return _read(path)


def check_tokens(name: str, special_tokens: Sequence[str]) -> None:
    """Raises JslmError where the built-in template `name` needs a special token that is not there."""
    for token in NEEDED_TOKENS.get(name, ()):
        if token not in special_tokens:
            needed = json.dumps(list(NEEDED_TOKENS[name]))
            raise JslmError(
                f"data.chat_template = {name!r} writes {token}, which is no special token of the tokenizer; set "
                f"tokenizer.special_tokens = {needed}, or take data.chat_template = 'plain'"
            )


def model_template(path: Path) -> str:
    """`find_template` for a model that is to be used: one that can't be read keeps it from conversations alone."""
    try:
        return find_template(path)
    except JslmError as error:
        _log.warning("%s; the model continues texts, and has no chat until that is mended", error)
        return ""


def find_template(path: Path) -> str:
    """The source of the template in a folder: `chat_template.jinja`, or the one in a Hugging Face model's
    `tokenizer_config.json`; empty where there is none. Raises JslmError where it can't be read."""
    if (path / TEMPLATE_NAME).is_file():
        return _read(path / TEMPLATE_NAME)
    settings = path / "tokenizer_config.json"
    try:
        found = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
        source = found.get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise JslmError(f"{settings}: its chat template cannot be read ({error})") from None
    if isinstance(source, list):
        # Older folders name several; the first purpose of a model is to talk.
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)}
        source = named.get("default")
    return source if isinstance(source, str) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise JslmError(f"{path}: the chat template cannot be read: {reason}") from None


def _jinja() -> Any:
    # Jinja comes with it, for the models and data that have a chat template.
    import jslm.prompts.chat_environment

    return jslm.prompts.chat_environment
