"""The keys that are let in now: found in constant time, read again when their file changes."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from jslm.errors import JslmError
from jslm.serve.keys import SINGLE, Key, digest, read_keys, single_key, warn_if_open
from jslm.serve.quota import Account, Clock

_CHECK_SECONDS = 1.0
_log = logging.getLogger("jslm")
# What tells one content of a file from another.
_Stamp = tuple[int, int, int] | None


class Keyring:
    """Accounts by key. Called on the event loop's thread alone."""

    def __init__(
        self, keys: Sequence[Key], *, changed: Callable[[], Sequence[Key] | None] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        """`changed` gives the keys where they are others than at its last call, else None; it is asked once a second at
        most. Raises JslmError where there is no key: nobody could call."""
        if not keys:
            raise JslmError("there is no key, so that nobody could call; jslm serve --new-key NAME makes one")
        self._changed = changed
        self._clock = clock
        self._asked = clock()
        self._accounts: dict[str, Account] = {}
        self._take(keys)

    def find(self, given: bytes) -> Account | None:
        """The account of a key; None where there is none. Takes the same time whichever key it is."""
        if self._changed is not None and self._clock() - self._asked > _CHECK_SECONDS:
            self.refresh()
        wanted = digest(given)
        found = None
        for account in self._accounts.values():
            # Hashes, so that even their time would say nothing; and all of them, so that a place in the list does not.
            if hmac.compare_digest(account.key.sha256, wanted):
                found = account
        return found

    def refresh(self) -> None:
        """Reads the keys again where they have changed; where that fails those of before stay, and the log says so."""
        self._asked = self._clock()
        if self._changed is None:
            return
        try:
            keys = self._changed()
        except JslmError as error:
            _log.error("%s; the keys of before stay in use", error)
            return
        if keys is not None:
            self._take(keys)
            _log.info("keys read again: %s", ", ".join(self._accounts) or "none, so that nobody can call")

    def _take(self, keys: Sequence[Key]) -> None:
        before, self._accounts = self._accounts, {}
        for key in keys:
            account = before.get(key.name)
            if account is None:
                account = Account(key, self._clock)
            else:
                account.change(key)
            self._accounts[key.name] = account


def open_keyring(
    file: str | None, token: str | None, models: Collection[str], *, clock: Clock = time.monotonic
) -> Keyring | None:
    """The keys of a file, and the single one where there is one; None where callers need none. `models`: ids that are
    served. Raises JslmError as `read_keys` does, and for a file without a key."""
    single = [] if token is None else [single_key(token)]
    if file is None:
        return Keyring(single, clock=clock) if single else None
    path = Path(file)
    stamp: list[_Stamp] = []

    def read() -> list[Key]:
        stamp[:] = [_stamp(path)]
        keys = read_keys(path, models)
        if single and any(key.name == SINGLE for key in keys):
            raise JslmError(f"--keys {path}: the name {SINGLE} is that of --api-key-file's key; choose another")
        warn_if_open(path, "--keys")
        return [*single, *keys]

    def changed() -> list[Key] | None:
        return None if stamp == [_stamp(path)] else read()

    keys = read()
    if not keys:
        raise JslmError(f"--keys {path}: has no [[key]]; jslm serve --new-key NAME >> {path} adds one")
    return Keyring(keys, changed=changed, clock=clock)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
