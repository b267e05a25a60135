"""Conversations as records have them, and as the text of a document: JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jslm.errors import JslmError
from jslm.prompts.as_read import as_read

Message = Mapping[str, str]
_ROLE = re.compile(r"[a-z][a-z_]*")


def conversation_text(value: Any) -> str:
    """The messages of a record as the text of a document, JSON; other keys than role and content are left out.

    Raises JslmError for what is no conversation, or has nothing that an assistant says.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if isinstance(value, list) else type(value).__name__
        raise JslmError(f'expected a list of messages such as {{"role": "user", "content": "Hi"}}, found {found}')
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise JslmError(f"messages[{number}] is {type(message).__name__}; expected an object with role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                found = f"is {type(message[key]).__name__}" if key in message else "is missing"
                raise JslmError(f"messages[{number}].{key} {found}; expected a text")
        if not _ROLE.fullmatch(message["role"]):
            raise JslmError(f"messages[{number}].role = {message['role']!r}; expected a word such as user, assistant")
        messages.append({"role": message["role"], "content": as_read(message["content"])})
    if all(message["role"] != "assistant" for message in messages):
        raise JslmError("no message is of the role assistant: there is nothing to learn; drop the record")
    return json.dumps(messages, ensure_ascii=False)


def parse_conversation(text: str) -> list[Message]:
    """The messages of a document that `conversation_text` made."""
    found: list[Message] = json.loads(text)
    return found
