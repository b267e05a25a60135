"""What is known of one HTTP request while it is served, and what its line in the log will say."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.types import Scope

from jslm.serve.quota import Account

_NAME = "jslm.call"


@dataclass
class Call:
    """`account`: of the key that was sent; None where none is asked for. `model` is the id of a model that is here,
    never what a client made up. `started` and what follows from it are in seconds of `time.monotonic`. `prompts` and
    `texts` are kept where `keeps_texts` says so alone.
    """

    keeps_texts: bool = False
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started: float = field(default_factory=time.monotonic)
    account: Account | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_seconds: float | None = None
    error: str | None = None
    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def may_use(self, model: str) -> bool:
        """Whether its key is for that model."""
        return self.account is None or self.account.key.allows(model)

    def begins(self, scope: Scope) -> None:
        """Puts it where the endpoints find it."""
        scope[_NAME] = self


def call_of(scope: Scope) -> Call:
    """The call of a request that has come through the gate."""
    found: Call = scope[_NAME]
    return found
