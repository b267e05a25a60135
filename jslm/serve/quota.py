"""What one key may use in a minute and at once. All of it is called on the event loop's thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from jslm.serve.errors import ApiError
from jslm.serve.keys import Key

Clock = Callable[[], float]


class Bucket:
    """`limit` things a minute: full at first, filled evenly, and never fuller than that."""

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._level = float(limit)
        self._at = clock()

    @property
    def level(self) -> float:
        """What may be taken now."""
        now = self._clock()
        self._level = min(float(self.limit), self._level + (now - self._at) * self.limit / 60)
        self._at = now
        return self._level

    def seconds_until(self, amount: float) -> float:
        """Until so much is there; `amount` is at most `limit`."""
        return max(0.0, amount - self.level) * 60 / self.limit

    def take(self, amount: float) -> None:
        """Takes it, whether it is there or not."""
        self._level = self.level - amount

    def resized(self, limit: int) -> Bucket:
        """With another limit, and no more in it than before."""
        made = Bucket(limit, self._clock)
        made._level = min(float(limit), self.level)
        return made


class Account:
    """A key and what it has used."""

    def __init__(self, key: Key, clock: Clock = time.monotonic) -> None:
        self.key = key
        self.parallel = 0
        self._clock = clock
        self._requests = self._bucket(None, key.requests_per_minute)
        self._tokens = self._bucket(None, key.tokens_per_minute)

    def change(self, key: Key) -> None:
        """The same key with other limits; what was used stays used."""
        self.key = key
        self._requests = self._bucket(self._requests, key.requests_per_minute)
        self._tokens = self._bucket(self._tokens, key.tokens_per_minute)

    def enter(self) -> None:
        """Begins a request for text, which `leave` ends. Raises ApiError (429) where it is one too many."""
        if self.key.parallel is not None and self.parallel >= self.key.parallel:
            raise ApiError(
                429,
                f"key {self.key.name}: {self.parallel} requests are being answered, as many as it may have at once",
                code="too_many_parallel",
                headers={"Retry-After": "1"},
            )
        if self._requests is not None:
            self._wait_for(self._requests, 1, "requests")
        self.parallel += 1

    def leave(self) -> None:
        """Ends what `enter` has begun."""
        self.parallel -= 1

    def reserve(self, tokens: int) -> None:
        """Takes what a request may use at most, prompt and continuation. Raises ApiError: 400 where it never fits, 429
        where it does not now."""
        if self._tokens is None:
            return
        if tokens > self._tokens.limit:
            raise ApiError(
                400,
                f"this request may use {tokens} tokens, prompt and continuation; key {self.key.name} has "
                f"{self._tokens.limit} a minute: ask for fewer (max_tokens, n, a shorter prompt)",
                code="too_many_tokens",
                param="max_tokens",
            )
        self._wait_for(self._tokens, tokens, "tokens")

    def give_back(self, tokens: int) -> None:
        """Of what was reserved, what was not used."""
        if self._tokens is not None:
            self._tokens.take(-tokens)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's API has them, of the limits that the key has."""
        found = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.limit):.3f}s"
        return found

    def _bucket(self, before: Bucket | None, limit: int | None) -> Bucket | None:
        if limit is None:
            return None
        return Bucket(limit, self._clock) if before is None else before.resized(limit)

    def _wait_for(self, bucket: Bucket, amount: int, what: str) -> None:
        seconds = bucket.seconds_until(amount)
        if seconds > 0:
            wait = math.ceil(seconds)
            raise ApiError(
                429,
                f"key {self.key.name} has {bucket.limit} {what} a minute, and used them; try again in {wait} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )
        bucket.take(amount)
