"""A group of slots on the device, seen from the host: which sample has which slot, and what each has written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import jax
import numpy as np

from jslm.infer import LanguageModel, Options, Sampling, resolve_options, sample_keys
from jslm.infer import slots as step
from jslm.infer.job import Failure, Job, Piece, Sample, Token
from jslm.tokenizer import StreamDecoder

# Prompts are read this many tokens at a time, between which running samples write on.
CHUNK = 128


class Seat:
    """A sample in its slot."""

    def __init__(self, job: Job, sample: Sample, slot: int, context: int) -> None:
        self.job = job
        self.sample = sample
        self.slot = slot
        self.pieces = step.piece_lengths(len(sample.row.ids), CHUNK, context)
        self.read = 0
        self.scores: list[tuple[int, step.Scores]] = []

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
        self._config, self._dtype = model.config.model, model.dtype
        with jax.set_mesh(model.mesh):
            self._state = step.empty_state(slots=width, config=self._config, dtype=self._dtype)
        self._written: tuple[step.Written, list[Seat]] | None = None

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
        tokens, targets = np.zeros((1, padded), np.int32), np.zeros(padded, np.int32)
        tokens[0, :count] = row.ids[seat.read : seat.read + count]
        following = row.ids[seat.read + 1 : seat.read + count + 1]
        targets[: len(following)] = following
        left = row.left if not seat.pieces and sample.writes else 0
        numbers = (np.int32(seat.read), np.int32(count), np.int32(left))
        settings = self._settings(sample.options, row.sample, sample)
        scores = self._read(seat.slot, tokens, targets, numbers, self._seen(sample), settings, sample.scores_prompt)
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
        tokens, logprobs = (np.asarray(array)[:, :count].tolist() for array in (written.tokens, written.logprobs))
        wants_top = any(seat.sample.wants_top for seat in seats)
        top = (np.asarray(written.top_tokens), np.asarray(written.top_logprobs)) if wants_top else None
        for seat in seats:
            if self.seats[seat.slot] is not seat:
                continue
            failure = self._push(seat, tokens[seat.slot], logprobs[seat.slot], top)
            yield from self._tell(seat, failure)

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
        lengths = {padded for tokens in range(1, context) for _, padded in step.piece_lengths(tokens, CHUNK, context)}
        settings = self._settings(resolve_options(self.model.config.sample), 0, None)
        numbers = (np.int32(0), np.int32(1), np.int32(0))
        seen = np.zeros(self._config.vocab_size, bool)
        for padded in sorted(lengths):
            tokens, targets = np.zeros((1, padded), np.int32), np.zeros(padded, np.int32)
            for scored in (False, True):
                self._read(0, tokens, targets, numbers, seen, settings, scored)
                yield
        self._decode(np.zeros(self.width, bool), 0)
        yield

    def _read(
        self,
        slot: int,
        tokens: np.ndarray,
        targets: np.ndarray,
        numbers: tuple[np.int32, np.int32, np.int32],
        seen: np.ndarray,
        settings: step.Settings,
        scored: bool,
    ) -> step.Scores | None:
        with jax.set_mesh(self.model.mesh):
            self._state, scores = step.read_piece(
                self.model.weights,
                self._state,
                np.int32(slot),
                tokens,
                targets,
                *numbers,
                seen,
                settings,
                scored=scored,
                config=self._config,
                dtype=self._dtype,
            )
        return scores

    def _decode(self, alive: np.ndarray, count: int) -> step.Written:
        numbers = (np.int32(count), np.int32(self.model.tokenizer.eot_id))
        with jax.set_mesh(self.model.mesh):
            self._state, written = step.decode(
                self.model.weights, self._state, alive, *numbers, config=self._config, dtype=self._dtype
            )
        return written

    def _push(
        self, seat: Seat, tokens: list[int], logprobs: list[float], top: tuple[np.ndarray, np.ndarray] | None
    ) -> Failure | None:
        sample, row = seat.sample, seat.sample.row
        for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if not row.left:
                break
            if not np.isfinite(logprob):
                return "not_finite"
            if sample.wants_top and top is not None:
                pair = (top[0][seat.slot, index].tolist(), top[1][seat.slot, index].tolist())
                sample.tops.append(list(zip(*pair, strict=True)))
            row.push(token, logprob)
        return None

    def _tell(self, seat: Seat, failure: Failure | None) -> Iterator[tuple[Job, Piece]]:
        sample, row = seat.sample, seat.sample.row
        text = row.take()
        tokens = sample.new_tokens()
        if failure or row.finish_reason:
            self.leave(seat)
        if text or tokens or failure or row.finish_reason:
            yield seat.job, Piece(sample.number, text, tokens, (), row.finish_reason, failure)

    def _prompt_tokens(self, seat: Seat) -> list[Token]:
        """The prompt's tokens with their scores, without one that only begins the document."""
        row = seat.sample.row
        logprobs: list[float | None] = [None]
        tops: list[list[tuple[int, float]]] = [[]]
        for count, scores in seat.scores:
            pairs = zip(np.asarray(scores.top_tokens).tolist(), np.asarray(scores.top_logprobs).tolist(), strict=True)
            logprobs += np.asarray(scores.logprobs)[:count].tolist()
            tops += [list(zip(*pair, strict=True)) for pair in list(pairs)[:count]]
        decoder = StreamDecoder(self.model.tokenizer)
        text, found = "", []
        for token, logprob, top in list(zip(row.ids, logprobs, tops, strict=False))[seat.sample.lead :]:
            found.append(Token(token, len(text), logprob, top))
            text += decoder.push([token])
        return found

    def _seen(self, sample: Sample) -> np.ndarray:
        seen = np.zeros(self._config.vocab_size, bool)
        if sample.options.repetition_penalty != 1:
            seen[sample.row.ids] = True
            # Where it starts the document it is no repetition, as in jslm.sample.
            seen[[self.model.tokenizer.bos_id, self.model.tokenizer.eot_id]] = False
        return seen

    def _settings(self, options: Options, number: int, sample: Sample | None) -> step.Settings:
        """A row's settings as the device takes them; `sample` has those that jslm.sample does not know."""
        sampling = Sampling(
            _scalar(options.temperature, np.float32),
            _scalar(min(options.top_k, 2**31 - 1), np.int32),
            _scalar(options.top_p, np.float32),
            _scalar(options.min_p, np.float32),
            _scalar(options.repetition_penalty, np.float32),
        )
        labels = np.full(len(self._config.conditions), -1, np.int32)
        if sample and sample.labels:
            labels[:] = sample.labels
        return step.Settings(
            sampling,
            _scalar(sample.presence_penalty if sample else 0, np.float32),
            _scalar(sample.frequency_penalty if sample else 0, np.float32),
            sample_keys(options.seed, [number])[0],
            _scalar(sample is not None and sample.wants_top, np.bool_),
            cast(jax.Array, labels),
        )


def _scalar(value: float, kind: type[np.generic]) -> jax.Array:
    # As a numpy scalar it costs no dispatch of its own; a jitted function takes it as an array.
    return cast(jax.Array, kind(value))
