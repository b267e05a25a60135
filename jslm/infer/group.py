"""A group of slots on the device, seen from the host: which sample has which slot, and what each has written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jslm.infer.job import Failure, Job, Piece, Sample, Token
from jslm.infer.language_model import LanguageModel
from jslm.infer.request import make_request
from jslm.infer.row import NotFinite, Row, push_tokens
from jslm.infer.samplers import Features
from jslm.infer.state import Pieces, Scores, Settings, Written, piece_lengths
from jslm.tokenizer import StreamDecoder

# Prompts are read this many tokens at a time, between which running samples write on.
CHUNK = 128
# Tokens that one dispatch writes at most: text arrives smoothly, and a cancelled sample's slot is free soon.
DISPATCH_TOKENS = 16
# One program for any mix of requests.
_FEATURES = Features()


class Seat:
    """A sample in its slot."""

    def __init__(self, job: Job, sample: Sample, slot: int, context: int) -> None:
        self.job = job
        self.sample = sample
        self.slot = slot
        self.pieces = piece_lengths(len(sample.row.ids), CHUNK, context)
        self.read = 0
        self.scores: list[tuple[int, Scores]] = []

    @property
    def writes(self) -> bool:
        """Whether the prompt has been read."""
        return not self.pieces


class Group:
    """`width` slots that decode together, always at that width. All methods belong to the engine's thread."""

    def __init__(self, model: LanguageModel, width: int) -> None:
        self.model = model
        self.width = width
        self.seats: list[Seat | None] = [None] * width
        self._config = model.config.model
        self._state = model.programs.empty(width)
        self._written: tuple[Written, list[Seat]] | None = None

    @property
    def taken(self) -> list[Seat]:
        """The slots in use."""
        return [seat for seat in self.seats if seat is not None]

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self.seats.count(None)

    def join(self, job: Job, sample: Sample) -> Seat:
        """Gives the sample a free slot."""
        slot = self.seats.index(None)
        seat = Seat(job, sample, slot, self._config.context_length)
        self.seats[slot] = seat
        return seat

    def leave(self, seat: Seat) -> None:
        """Frees the slot; what it was writing is dropped at the next dispatch."""
        if self.seats[seat.slot] is seat:
            self.seats[seat.slot] = None

    def read(self, seat: Seat) -> int:
        """Starts reading the next piece of the prompt; returns its padded length."""
        sample, row = seat.sample, seat.sample.row
        count, padded = seat.pieces.pop(0)
        left = row.left if not seat.pieces and sample.writes else 0
        settings = self.model.settings([row])
        tokens = row.ids[seat.read : seat.read + count + 1]
        scores = self._read(
            seat.slot, tokens, count, padded, seat.read, left, settings, self.model.seen(row), sample.scores_prompt
        )
        if scores is not None:
            seat.scores.append((count, scores))
        seat.read += count
        return padded

    def start_decoding(self, count: int) -> bool:
        """Starts writing up to `count` tokens of each sample that has read its prompt; False where there is none."""
        seats = [seat for seat in self.taken if seat.writes and seat.sample.writes]
        if not seats:
            return False
        alive = np.zeros(self.width, bool)
        alive[[seat.slot for seat in seats]] = True
        self._written = (self._decode(alive, count), seats)
        return True

    def collect(self, count: int) -> Iterator[tuple[Job, Piece]]:
        """What `start_decoding(count)` has written, once it is there; frees the slots of samples that have ended."""
        if self._written is None:
            return
        written, seats = self._written
        self._written = None
        wants_top = any(seat.sample.row.request.top_logprobs for seat in seats)
        found = [np.asarray(array)[:, :count] for array in written[: None if wants_top else 2]]
        for seat in seats:
            if self.seats[seat.slot] is not seat:
                continue
            finite = True
            try:
                push_tokens(seat.sample.row, *(array[seat.slot] for array in found))
            except NotFinite:
                finite = False
            yield from self._tell(seat, finite)

    def finish_reading(self, seat: Seat) -> Iterator[tuple[Job, Piece]]:
        """After a prompt's last piece: its scores, where asked for, and the end of a sample that writes nothing."""
        sample = seat.sample
        if sample.scores_prompt:
            yield seat.job, Piece(sample.number, prompt_tokens=self._prompt_tokens(seat))
        if not sample.writes:
            self.leave(seat)
            yield seat.job, Piece(sample.number, finish_reason="length")

    def warm_up(self) -> Iterator[None]:
        """Compiles every program that serving can need; yields after each."""
        context = self._config.context_length
        lengths = {padded for tokens in range(1, context) for _, padded in piece_lengths(tokens, CHUNK, context)}
        row = Row("", [0], 0, 1, self.model.tokenizer, make_request(self.model.config.sample))
        settings, seen = self.model.settings([row]), np.zeros(self._config.vocab_size, bool)
        for padded in sorted(lengths):
            for scored in (False, True):
                self._read(0, [0], 1, padded, 0, 0, settings, seen, scored)
                yield
        self._decode(np.zeros(self.width, bool), 0)
        yield

    def _read(
        self,
        slot: int,
        ids: Sequence[int],
        count: int,
        padded: int,
        start: int,
        left: int,
        settings: Settings,
        seen: np.ndarray,
        scored: bool,
    ) -> Scores | None:
        """`count` of the ids, and for scores the one that follows them where there is one."""
        tokens, targets = np.zeros((1, padded), np.int32), np.zeros((1, padded), np.int32)
        tokens[0, :count] = ids[:count]
        targets[0, : len(ids) - 1] = ids[1:]
        numbers = {"start": start, "length": count, "left": left, "written": 0}
        columns: dict[str, Any] = {name: np.array([number], np.int32) for name, number in numbers.items()}
        columns |= {"tokens": tokens, "seen": seen[None], "targets": targets}
        piece = Pieces(settings=settings, **columns)
        self._state, scores = self.model.programs.read(self._state, slot, piece, scored=scored)
        return scores

    def _decode(self, alive: np.ndarray, count: int) -> Written:
        self._state, written = self.model.programs.write(
            self._state, alive, count, self.model.tokenizer.eot_id, features=_FEATURES, dispatch=DISPATCH_TOKENS
        )
        return written

    def _tell(self, seat: Seat, finite: bool) -> Iterator[tuple[Job, Piece]]:
        sample, row = seat.sample, seat.sample.row
        failure: Failure | None = None if finite else "not_finite"
        text = row.take()
        tokens = sample.new_tokens()
        if failure or row.finish_reason:
            self.leave(seat)
        if text or tokens or failure or row.finish_reason:
            yield seat.job, Piece(sample.number, text, tokens, (), row.finish_reason, failure, row.end_logprob)

    def _prompt_tokens(self, seat: Seat) -> list[Token]:
        """The prompt's tokens with their scores, without one that only begins the document."""
        row = seat.sample.row
        logprobs: list[float | None] = [None]
        tops: list[list[tuple[int, float]]] = [[]]
        for count, scores in seat.scores:
            pairs = zip(
                *(np.asarray(array)[0].tolist() for array in (scores.top_tokens, scores.top_logprobs)), strict=True
            )
            logprobs += np.asarray(scores.logprobs)[0, :count].tolist()
            tops += [list(zip(*pair, strict=True)) for pair in list(pairs)[:count]]
        decoder = StreamDecoder(self.model.tokenizer)
        text, found = "", []
        for token, logprob, top in list(zip(row.ids, logprobs, tops, strict=False))[seat.sample.lead :]:
            found.append(Token(token, len(text), logprob, top))
            text += decoder.push([token])
        return found
