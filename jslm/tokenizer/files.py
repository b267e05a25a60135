"""Writing a file so that nobody ever reads half of it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from jslm.errors import JslmError


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 `text` to `path` by way of a temporary file in the same folder, which is made if absent.

    Raises JslmError where the file cannot be written; what stood there before is then untouched.
    """
    target = Path(path)
    # Not `tempfile`: its files are readable by their owner alone, and stay so after the rename.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise JslmError(f"{target}: cannot be written ({error.strerror or error}); choose another path") from error
