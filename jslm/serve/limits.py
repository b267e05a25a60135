"""What one server takes on; past each limit a request is refused with its own status."""

from __future__ import annotations

from dataclasses import dataclass, fields

from jslm.errors import JslmError

# Where the API key is read from, where no file is named.
KEY_VARIABLE = "JSLM_SERVE_KEY"


@dataclass(frozen=True)
class Limits:
    """`slots`: samples written at once, of each model (0: up to 64, as 1 GiB of cache allows). `queue`: samples that
    wait for a slot. `samples`: of one request (prompts times n). `prompt_tokens` and `new_tokens`: of one sample
    (0: the context). `seconds`: from a request's arrival to its last token. `body_bytes`: of a request.
    """

    slots: int = 0
    queue: int = 256
    samples: int = 128
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 300.0
    body_bytes: int = 2**20

    def __post_init__(self) -> None:
        """Raises JslmError for a limit that lets nothing through."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.default == 0 else 1
            # Written so that a NaN fails too.
            if not value >= least:
                raise JslmError(f"--max-{field.name.replace('_', '-')} {value}: expected {least} or more")
