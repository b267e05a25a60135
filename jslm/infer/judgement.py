"""What becomes of a rewrite that was written: the sentence's new text, or the old one and the reason why."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jslm.config import RewriteConfig
from jslm.infer.faithful import unfaithful
from jslm.tokenizer import Tokenizer

# Reasons of sentences that there is nothing to say of.
BLANK, UNCHANGED = "blank", "nothing to change"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# Below any that a model has for a token: a probability of one in 10**30.
_LEAST = -69.0
# Code points with nothing to see: blanks, controls, marks of direction.
_UNSEEN = (
    *((0, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x1680, 0x1680), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F)),
    *((0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)


@dataclass(frozen=True)
class Rewrite:
    """A sentence and what became of it.

    `confidence` is the probability that the rewrite is right, by the model's calibration (`rewrite.calibration`), or
    without one the mean probability of a token that it wrote, end-of-text token included; also where `output` is the
    source after all; None where nothing was written. `reason` says in words why a sentence stayed, and is empty where
    it `changed`. `logprob` is the mean natural log-probability of those tokens.
    """

    source: str
    output: str
    confidence: float | None
    changed: bool
    reason: str = ""
    logprob: float | None = None


def kept(sentence: str, reason: str, confidence: float | None = None, logprob: float | None = None) -> Rewrite:
    """The sentence as it is, and why."""
    return Rewrite(sentence, sentence, confidence, False, reason, logprob)


def judge(
    config: RewriteConfig,
    sentence: str,
    text: str,
    logprobs: Sequence[float],
    finish_reason: str | None,
    *,
    threshold: float,
    may_add: bool = False,
    beams: int = 1,
    agreement: float = 0.0,
    without: str = "",
) -> Rewrite:
    """The rewrite of a sentence, or the sentence and the reason why it stays.

    `text` is what was written for the sentence, without white space around it and in Unicode NFC; `logprobs` those of
    its tokens and of the end-of-text token; `finish_reason` "stop" where it ended by itself. `may_add`: see
    `unfaithful`. `beams`, `agreement`: see `confidence_of`; `without` says what the confidence had to do without.
    """
    core, text = sentence.strip(), text.strip()
    source = unicodedata.normalize("NFC", core)
    mean = sum(logprobs) / len(logprobs) if logprobs else None
    sure = confidence_of(config, logprobs, beams, agreement)
    keep = functools.partial(kept, sentence, confidence=sure, logprob=mean)
    if finish_reason == "length":
        return keep("the rewrite has not ended in the room there is")
    if not text or sure is None:
        return keep("nothing was written")
    if text == source:
        return keep(UNCHANGED)
    if _UNKNOWN in text:
        return keep("the rewrite has a character that is none")
    if config.faithful and (difference := unfaithful(source, text, may_add=may_add)):
        return keep(f"the rewrite says something else: {difference}")
    if sure < threshold:
        return keep(f"not sure enough: {sure:.2f}, and {threshold:.2f} is asked for{without}")
    at = sentence.index(core)
    return Rewrite(sentence, sentence[:at] + text + sentence[at + len(core) :], sure, True, "", mean)


def features(logprobs: Sequence[float]) -> tuple[float, float, float, float]:
    """What the confidence is made of: 1, sum and lowest of the log-probabilities, and the logarithm of their number."""
    values = [max(value, _LEAST) for value in logprobs]
    return 1.0, sum(values), min(values), math.log(len(values))


def confidence_of(
    config: RewriteConfig, logprobs: Sequence[float], beams: int = 1, agreement: float = 0.0
) -> float | None:
    """The probability that a rewrite is right, from 0 to 1; None for none.

    `agreement` is that of the `beams` it was found with (`jslm.infer.agreement`); it counts where the model was
    calibrated with as many.
    """
    if not logprobs:
        return None
    weights = config.weights_with(beams)
    if not weights:
        return math.exp(sum(logprobs) / len(logprobs))
    values = (*features(logprobs), agreement)[: len(weights)]
    score = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return 1 / (1 + math.exp(-max(min(score, 500.0), -500.0)))


def shown_character(char: str) -> str:
    """A character in a reason: in quotes, and by its number where there would be nothing to see."""
    return f"'{char}'" if _is_seen(char) else f"U+{ord(char):04X}"


def _is_seen(char: str) -> bool:
    return not any(first <= ord(char) <= last for first, last in _UNSEEN)


class StandIns:
    """Known characters for those that a tokenizer of characters does not know, and back.

    A rewriter copies a rare letter by its place, whichever it is: one that the sentence does not have stands for the
    unknown one. Only characters outside ASCII do that are no white space, so a tokenizer of plain ASCII has none.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        """Raises KeyError with the characters that nothing stands for."""
        self.table: dict[str, str] = {}
        free = {kind: [char for char in chars if char not in text] for kind, chars in _spare(tokenizer).items()}
        for char in tokenizer.unknown_characters(text):
            spare = free[_kind(char)]
            if not spare:
                raise KeyError(char)
            self.table[char] = spare.pop()

    def put(self, text: str) -> str:
        """The text with known characters alone."""
        return text.translate({ord(char): known for char, known in self.table.items()})

    def take(self, text: str) -> str:
        """The text with the characters it had."""
        return text.translate({ord(known): char for char, known in self.table.items()})


@functools.lru_cache(maxsize=4)
def _spare(tokenizer: Tokenizer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"upper": [], "lower": [], "other": []}
    for token in range(tokenizer.vocab_size):
        char = tokenizer.decode_bytes([token]).decode("utf-8", "replace")
        if len(char) == 1 and not char.isascii() and char != _UNKNOWN and _is_seen(char):
            found[_kind(char)].append(char)
    return found


def _kind(char: str) -> str:
    return "upper" if char.isupper() else "lower" if char.isalpha() else "other"
