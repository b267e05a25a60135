"""A model as the server offers it: its id, its prompts as samples, its chat and rewriting templates."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.infer import Chat, LanguageModel, Request, Row, load, make_request, rewrite_prompt
from jslm.infer.job import Sample
from jslm.prompts.pairs import learns_rewrites
from jslm.runs.remote import opened
from jslm.serve.errors import ApiError
from jslm.serve.limits import Limits

_log = logging.getLogger("jslm")


class ServedModel:
    """A loaded model with what requests to it need. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        limits: Limits,
        *,
        path: Path | None = None,
    ) -> None:
        """`path`: the run folder or file that it was opened from, for the page.

        A chat template that is none keeps the model from chat alone: `chat` is None, and `no_chat` says why.
        """
        self.path = path
        self.name = name
        self.model = model
        self.chat: Chat | None = None
        self.no_chat = f"{name} has no chat template: it continues texts; use /v1/completions"
        if model.chat_template:
            try:
                self.chat = Chat(model)
            except JslmError as error:
                self.no_chat = f"{name} cannot chat: {error}; use /v1/completions, or mend its chat_template.jinja"
                _log.warning("%s", self.no_chat)
        self.created = int(time.time())
        config = model.config.model
        self.context = config.context_length
        self.prompt_limit = min(limits.prompt_tokens or self.context - 1, self.context - 1)
        self.new_limit = min(limits.new_tokens or self.context, self.context)
        # What was set is refused past it; past the context a text just ends.
        self._new_tokens_refused = limits.new_tokens
        self.conditions = {condition.name: condition.labels for condition in config.conditions}
        self.sample_limit = limits.samples
        # A character that a tokenizer does not know may be longer than any piece it has.
        self._longest_piece = max(16, int(model.tokenizer.token_bytes().max()))

    def request(self, values: Mapping[str, Any]) -> Request:
        """The run's defaults with a request's `values` (arguments of jslm.sample) in their place.

        Without a seed, a random one. Raises ApiError for a value out of range, and for conditions that the model does
        not have.
        """
        asked = {key: value for key, value in values.items() if value is not None}
        asked.setdefault("seed", secrets.randbits(63))
        asked.setdefault("max_new_tokens", min(self.model.config.sample.max_new_tokens, self.new_limit))
        if 0 < self._new_tokens_refused < asked["max_new_tokens"]:
            raise ApiError(
                400,
                f"max_tokens = {asked['max_new_tokens']}; this server writes at most {self.new_limit} tokens a sample",
                param="max_tokens",
            )
        asked["max_new_tokens"] = min(asked["max_new_tokens"], self.context)
        self._check_conditions(asked.get("conditions", {}))
        try:
            return make_request(self.model.config.sample, **asked)
        except JslmError as error:
            raise ApiError(400, str(error)) from None

    def row(self, prompt: str | Sequence[int], number: int, request: Request) -> Row:
        """The row of a prompt: text as jslm.sample reads it, or ids as they are. Raises ApiError where it is too long
        or has an id outside the vocabulary."""
        if isinstance(prompt, str):
            prompt = self.model.as_read(prompt)
            self.check_length(prompt)
            try:
                row = self.model.row(prompt, number, request)
            except JslmError:
                raise self._too_long(len(self.model.tokenizer.encode(prompt))) from None
            if len(row.ids) > self.prompt_limit + 1:
                raise self._too_long(len(row.ids))
            return row
        vocab = self.model.config.model.vocab_size
        if any(token >= vocab for token in prompt):
            raise ApiError(400, f"prompt: token {max(prompt)} is outside the vocabulary of {vocab}", param="prompt")
        if len(prompt) > self.prompt_limit:
            raise self._too_long(len(prompt))
        limit = min(request.max_new_tokens, self.context - len(prompt))
        return Row("ids", prompt, number, limit, self.model.tokenizer, request)

    def check_length(self, text: str) -> None:
        """Raises ApiError where a text is too long for certain: encoding it would keep everybody else waiting."""
        most = self._longest_piece * (self.prompt_limit + 1)
        if len(text) > most or len(text.encode("utf-8", "replace")) > most:
            raise self._too_long(f"more than {self.prompt_limit}")

    def samples(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        request: Request,
        *,
        scores_prompt: bool,
        writes: bool = True,
    ) -> list[Sample]:
        """`request.num_samples` samples of each prompt, prompt by prompt. Raises ApiError as `row` does, and where they
        are too many.
        """
        found = []
        count = len(prompts) * request.num_samples
        # Before any is encoded, which takes its time.
        if count > self.sample_limit:
            message = f"{count} samples (prompts times n); this server takes {self.sample_limit} a request"
            raise ApiError(400, message, param="n")
        for prompt in prompts:
            for number in range(request.num_samples):
                row = self.row(prompt, number, request)
                lead = 0
                if scores_prompt and isinstance(prompt, str):
                    lead = len(row.ids) - len(self.model.tokenizer.encode(self.model.as_read(prompt)))
                found.append(Sample(row, scores_prompt=scores_prompt, lead=lead, writes=writes))
        return found

    def token_text(self, token: int) -> str:
        """A token as OpenAI's API shows it: `bytes:\\x..` where it is a part of a character."""
        raw = self.model.tokenizer.decode_bytes([token])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    @property
    def rewrites(self) -> bool:
        """Whether it has learned pairs of which the first is one text: what `jslm sample --rewrite` is for."""
        return learns_rewrites(self.model.config.data)

    def rewrite_prompt(self, sentence: str) -> str:
        """What the model reads before it writes the rewrite of a sentence."""
        return rewrite_prompt(self.model.config.data, sentence)

    def _check_conditions(self, conditions: Mapping[str, str]) -> None:
        known = self.conditions
        if conditions and not known:
            raise ApiError(
                400, f"conditions: {self.name} was trained without any", code="no_conditions", param="conditions"
            )
        for name, label in conditions.items():
            if name not in known:
                message = f"conditions: {self.name} has no condition {name!r:.80}; it has {', '.join(known)}"
                raise ApiError(400, message, code="unknown_condition", param="conditions")
            if label not in known[name]:
                message = f"conditions: {name} cannot be {label!r:.80}; it can be {', '.join(known[name])}"
                raise ApiError(400, message, code="unknown_label", param="conditions")

    def _too_long(self, tokens: int | str) -> ApiError:
        return ApiError(
            400,
            f"the prompt is {tokens} tokens long; this model takes {self.prompt_limit} (its context is {self.context}, "
            "prompt and continuation together)",
            code="context_length_exceeded",
            param="prompt",
        )


def model_name(path: str) -> str:
    """The id of the model that is opened from there: the name of its folder or file."""
    return Path(path).resolve().name


def open_models(
    paths: Sequence[str], limits: Limits, *, checkpoint: str = "best", overrides: Sequence[str] = ()
) -> dict[str, ServedModel]:
    """Every run folder or model file by its name. Raises JslmError where one does not open, or two share a name."""
    found: dict[str, ServedModel] = {}
    for each in paths:
        name = model_name(each)
        if name in found:
            raise JslmError(f"--run {each}: another model here is called {name!r} too; rename one of the two")
        opened_path, asked = opened(each, checkpoint)
        model = load(opened_path, checkpoint=asked, overrides=overrides)
        if model.config.model.context_length < 2:
            raise JslmError(f"--run {each}: its context of 1 token leaves no room to write in")
        found[name] = ServedModel(name, model, limits, path=Path(opened_path))
    return found
