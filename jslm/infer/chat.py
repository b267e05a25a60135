"""Conversations: a model with a chat template answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from jslm.errors import JslmError
from jslm.infer.request import Arguments, Request, make_request
from jslm.infer.row import Row
from jslm.prompts.chat import ChatTemplate

if TYPE_CHECKING:
    from jslm.infer.language_model import LanguageModel


class Chat:
    """A model's chat template, bound to it: what it reads before an answer, and what ends one."""

    def __init__(self, model: LanguageModel) -> None:
        """Raises JslmError where the model has no chat template, or a bad one."""
        if not model.chat_template:
            raise JslmError(
                "this model has no chat template: it continues texts (jslm sample without --chat); train it on "
                "data.messages, or put a chat_template.jinja into its folder"
            )
        self._model = model
        self._template = ChatTemplate(model.chat_template, model.tokenizer)
        self._starts = model.ends_documents and bool(model.config.data.messages)

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """What the model reads before it answers, as in training. Raises JslmError where the template refuses."""
        messages = [{**message, "content": self._model.as_read(message["content"])} for message in messages]
        return self._template.prompt_ids(messages, starts_document=self._starts) or [self._model.tokenizer.bos_id]

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer, besides the end-of-text token."""
        return self._template.stops

    def stream(self, messages: Sequence[Mapping[str, str]], **arguments: Unpack[Arguments]) -> Iterator[str]:
        """Pieces of the answer as they come; arguments as for `LanguageModel.stream`.

        Raises JslmError where the template refuses the messages, or they leave no room in the context to answer.
        """
        request = self._request(arguments)
        ids = self.prompt_ids(messages)
        context = self._model.config.model.context_length
        if len(ids) >= context:
            raise JslmError(
                f"the conversation is {len(ids)} tokens, the context of this model is {context}; say less, or leave "
                "out its oldest messages"
            )
        limit = min(request.max_new_tokens, context - len(ids))
        row = Row("", ids, 0, limit, self._model.tokenizer, request)
        return self._model.stream_row(row, request)

    def fitting(self, messages: Sequence[Mapping[str, str]], **arguments: Unpack[Arguments]) -> list[Mapping[str, str]]:
        """The messages without the oldest turns that leave no room to answer in; a first system message stays.

        Room is `max_new_tokens`, or half the context where that is less. What is left may still be too long.
        """
        context = self._model.config.model.context_length
        room = min(self._request(arguments).max_new_tokens, context // 2)
        kept = list(messages)
        first = 1 if kept and kept[0]["role"] == "system" else 0
        while len(kept) > first + 2 and len(self.prompt_ids(kept)) + room > context:
            # A question goes with its answer: templates want them by turns.
            del kept[first : first + 2]
        return kept

    def _request(self, arguments: Arguments) -> Request:
        request = make_request(self._model.config.sample, **arguments)
        return dataclasses.replace(request, stop=(*request.stop, *self.stops))
