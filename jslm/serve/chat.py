"""Chat templates: the Jinja template beside a model's weights, as Hugging Face folders have it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jslm.errors import JslmError
from jslm.serve.errors import ApiError

_FILES = ("chat_template.jinja", "tokenizer_config.json")


class ChatTemplate:
    """Messages to a prompt. The template runs in Jinja's sandbox."""

    def __init__(self, source: str, special: Mapping[str, str], where: str = "chat template") -> None:
        """`special` are variables such as `bos_token`. Raises JslmError where `source` is no Jinja template."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._special = dict(special)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise JslmError(f"{where}: not a chat template in Jinja: {error}") from None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt up to where the answer begins. Raises ApiError where the template refuses the messages."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._special)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from None


def find_chat_template(path: Path) -> ChatTemplate | None:
    """The template in a run folder or beside a Hugging Face model: `chat_template.jinja`, or the one in
    `tokenizer_config.json`. None where there is none. Raises JslmError where it is damaged."""
    folder = path if path.is_dir() else path.parent
    special: dict[str, str] = {}
    source = None
    settings = folder / _FILES[1]
    # A file's folder may hold other models: only a folder that is a model speaks for it.
    if not path.is_dir():
        return None
    try:
        if settings.is_file():
            values = json.loads(settings.read_text("utf-8"))
            source = values.get("chat_template")
            for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
                token = values.get(name)
                special[name] = (token.get("content") if isinstance(token, dict) else token) or ""
        if (folder / _FILES[0]).is_file():
            source = (folder / _FILES[0]).read_text("utf-8")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise JslmError(f"{folder}: its chat template cannot be read ({error})") from None
    return ChatTemplate(source, special, str(folder)) if isinstance(source, str) else None


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
