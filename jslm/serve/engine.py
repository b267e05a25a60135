"""The engine: one thread that owns JAX and writes the samples of all requests together.

Between dispatches samples join free slots and leave them. A round reads some pieces of prompts, then decodes every
group that has a running sample: one token where somebody waits to join, several where nobody does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jslm.cli import describe_error, is_out_of_memory
from jslm.infer import LanguageModel
from jslm.infer.group import DISPATCH_TOKENS, Group, Seat
from jslm.infer.job import Failure, Job, Piece
from jslm.serve.limits import Limits

_MOST_SLOTS = 64
_CACHE_BYTES = 2**30
# Padded prompt tokens read between two decoding dispatches while samples are running.
_READ_TOKENS = 256
# A dispatch takes about this long at most, so that text arrives smoothly and a cancelled sample's slot is free soon.
_DISPATCH_SECONDS = 0.05
_log = logging.getLogger("jslm")

Post = Callable[[Callable[[], None]], object]


class Refused(Exception):
    """The engine does not take a job: "queue_full", "stopped" or "draining"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Stats:
    """What a model's slots and queue hold, and what they have done since the start."""

    slots: int
    taken: int
    waiting: int
    prompt_tokens: int
    new_tokens: int
    dispatches: int


class _Lane:
    """One model's groups and queue."""

    def __init__(self, model: LanguageModel, slots: int) -> None:
        groups = -(-slots // model.programs.rows_together)
        width = slots // groups
        self.groups = [Group(model, width) for _ in range(groups)]
        self.slots = width * len(self.groups)
        # A job in turn gives one sample, so that a large request does not keep small ones waiting.
        self.waiting: deque[tuple[Job, deque[int]]] = deque()
        self.reading: deque[tuple[Group, Seat]] = deque()
        self.step_seconds = 0.0
        self.prompt_tokens = self.new_tokens = self.dispatches = 0

    @property
    def free(self) -> int:
        return sum(group.free for group in self.groups)

    @property
    def backlog(self) -> int:
        # A snapshot: other threads read this while the engine's turns the queue.
        return sum(len(numbers) for _, numbers in list(self.waiting))

    def stats(self, waiting: int) -> Stats:
        return Stats(self.slots, self.slots - self.free, waiting, self.prompt_tokens, self.new_tokens, self.dispatches)


class Engine:
    """Writes jobs. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self, models: Mapping[str, LanguageModel], limits: Limits, *, post: Post = lambda call: call()
    ) -> None:
        """`post` carries what the engine has to tell to where it shall be heard, as `loop.call_soon_threadsafe` does.

        Caches are allocated here; programs are compiled once `start` was called.
        """
        self.limits = limits
        self.failure: BaseException | None = None
        self._warm = False
        self._post = post
        self._lanes = {name: _Lane(model, limits.slots or _affordable_slots(model)) for name, model in models.items()}
        self._condition = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._changed = self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jslm-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, which first compiles all programs."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a job. Raises Refused where the queue is full or the engine is not running."""
        lane = self._lanes[job.model]
        with self._condition:
            if self.failure or self._stopping:
                raise Refused("stopped")
            if self._draining:
                raise Refused("draining")
            if self._waiting(job.model) + len(job.samples) > self.limits.queue + lane.free:
                raise Refused("queue_full")
            self._arrived.append(job)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Ends a job without a word; its slots are free after the dispatch that is running."""
        job.cancelled = True
        with self._condition:
            self._changed = True
            self._condition.notify()

    def drain(self) -> None:
        """Refuses new jobs from now on and finishes those it has."""
        with self._condition:
            self._draining = True

    def stop(self, timeout: float | None = 10.0) -> None:
        """Ends the thread; jobs that are not finished fail."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def stats(self) -> dict[str, Stats]:
        """By model; from any thread."""
        with self._condition:
            return {name: lane.stats(self._waiting(name)) for name, lane in self._lanes.items()}

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs because it shall end."""
        return self._draining

    @property
    def ready(self) -> bool:
        """Whether jobs are taken and written at once."""
        return self._warm and not (self._stopping or self._draining)

    @property
    def reason(self) -> str:
        """Why it is not ready, for whoever watches it."""
        known = {
            "stopped": "the engine has failed; the log says how" if self.failure else "the engine has stopped",
            "draining": "the server is shutting down",
            "starting": "programs are being compiled",
        }
        return known.get(self.status, "")

    @property
    def status(self) -> str:
        """In a word."""
        if self._stopping:
            return "stopped"
        if self._draining:
            return "draining"
        return "ready" if self.ready else "starting"

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._arrived and all(not lane.waiting and lane.free == lane.slots for lane in self._lanes.values())

    def _run(self) -> None:
        try:
            for lane in self._lanes.values():
                for group in lane.groups[:1]:
                    for _ in group.warm_up():
                        if self._stopping:
                            return
            self._warm = True
            while self._wait():
                for lane in self._lanes.values():
                    self._round(lane)
        except BaseException as error:
            self.failure = error
            if isinstance(error, Exception) and is_out_of_memory(error):
                _log.error("the engine has stopped: %s", describe_error(error, "serve")[1])
            else:
                _log.exception("the engine has stopped")
        finally:
            with self._condition:
                self._stopping = True
            self._fail_all()

    def _wait(self) -> bool:
        """Until there is something to do; False where the engine shall stop."""
        with self._condition:
            while not (self._stopping or self._arrived or self._changed or not self._is_quiet()):
                self._condition.wait()
            self._changed = False
            while self._arrived:
                job = self._arrived.popleft()
                self._lanes[job.model].waiting.append((job, deque(range(len(job.samples)))))
            return not self._stopping

    def _waiting(self, name: str) -> int:
        arriving = sum(len(job.samples) for job in self._arrived if job.model == name)
        return arriving + self._lanes[name].backlog

    def _is_quiet(self) -> bool:
        return all(not lane.waiting and lane.free == lane.slots for lane in self._lanes.values())

    def _round(self, lane: _Lane) -> None:
        news = self._drop(lane)
        self._admit(lane)
        news += self._read(lane)
        count = self._dispatch_length(lane)
        started = time.perf_counter()
        running = [group for group in lane.groups if group.start_decoding(count)]
        self._tell(news)
        for group in running:
            news = list(group.collect(count))
            lane.new_tokens += sum(len(piece.tokens) for _, piece in news)
            self._tell(news)
        if running:
            lane.dispatches += len(running)
            seconds = (time.perf_counter() - started) / count
            lane.step_seconds = 0.8 * lane.step_seconds + 0.2 * seconds if lane.step_seconds else seconds

    def _drop(self, lane: _Lane) -> list[tuple[Job, Piece]]:
        """Frees what cancelled jobs and those past their time hold."""
        now = time.monotonic()
        news: list[tuple[Job, Piece]] = []

        def ends(job: Job) -> bool:
            return job.cancelled or now > job.deadline

        for group in lane.groups:
            for seat in group.taken:
                if ends(seat.job):
                    group.leave(seat)
                    news.append((seat.job, Piece(seat.sample.number, failure="timeout")))
        for job, numbers in lane.waiting:
            if ends(job):
                news += [(job, Piece(number, failure="timeout")) for number in numbers]
        if any(ends(job) for job, _ in lane.waiting):
            lane.waiting = deque((job, numbers) for job, numbers in lane.waiting if not ends(job))
        lane.reading = deque((group, seat) for group, seat in lane.reading if group.seats[seat.slot] is seat)
        return news

    def _admit(self, lane: _Lane) -> None:
        while lane.waiting and lane.free:
            job, numbers = lane.waiting.popleft()
            # The fullest group that has room: an empty one costs as much to decode as a full one.
            group = min((group for group in lane.groups if group.free), key=lambda group: group.free)
            seat = group.join(job, job.samples[numbers.popleft()])
            lane.reading.append((group, seat))
            if numbers:
                lane.waiting.append((job, numbers))

    def _read(self, lane: _Lane) -> list[tuple[Job, Piece]]:
        news: list[tuple[Job, Piece]] = []
        budget = _READ_TOKENS
        while lane.reading and budget > 0:
            group, seat = lane.reading[0]
            budget -= group.read(seat)
            if seat.writes:
                lane.reading.popleft()
                lane.prompt_tokens += seat.read
                news += group.finish_reading(seat)
        return news

    def _dispatch_length(self, lane: _Lane) -> int:
        if lane.reading or self._arrived:
            return 1
        return max(1, min(DISPATCH_TOKENS, int(_DISPATCH_SECONDS / max(lane.step_seconds, 1e-6))))

    def _tell(self, news: Sequence[tuple[Job, Piece]]) -> None:
        heard = [(job, piece) for job, piece in news if not job.cancelled]
        if not heard:
            return

        def call() -> None:
            for job, piece in heard:
                job.tell(piece)

        try:
            self._post(call)
        except RuntimeError:
            # The event loop has closed: nobody listens any more.
            _log.debug("nobody hears the engine any more")

    def _fail_all(self) -> None:
        reason: Failure = "stopped"
        news: list[tuple[Job, Piece]] = []
        for lane in self._lanes.values():
            news += [
                (seat.job, Piece(seat.sample.number, failure=reason)) for group in lane.groups for seat in group.taken
            ]
            news += [(job, Piece(number, failure=reason)) for job, numbers in lane.waiting for number in numbers]
            lane.waiting.clear()
            lane.reading.clear()
            for group in lane.groups:
                group.seats = [None] * group.width
        with self._condition:
            news += [(job, Piece(n, failure=reason)) for job in self._arrived for n in range(len(job.samples))]
            self._arrived.clear()
        self._tell(news)


def _affordable_slots(model: LanguageModel) -> int:
    config = model.config.model
    row = 2 * config.n_layers * config.kv_heads * config.context_length * config.dim_per_head * model.dtype.itemsize
    return max(1, min(_MOST_SLOTS, _CACHE_BYTES // row))
