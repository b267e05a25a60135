"""What the check of rewrites lets through, what it keeps, and what stands for letters that a model does not know."""

from __future__ import annotations

import math

import pytest

from jslm.config import RewriteConfig, config_from_dict
from jslm.errors import JslmError
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import StandIns, judge
from jslm.tokenizer import CharTokenizer
from tests.rewrite_pairs import SIGNS

FAITHFUL = [
    ("The letter was rewritten by the clerk.", "The clerk rewrote the letter."),
    ("He can't be helped by doctors.", "Doctors cannot help him."),
    ("They were carried off by 24 men.", "24 men carried them off."),
    ("The roof needs to be fixed by us.", "We need to fix the roof."),
    ("It wasn't seen by anyone.", "No one saw it."),
    ("He fell and was helped by Ann.", "He fell and Ann helped him."),
    ("“I’m being followed,” she said, “by a dog.”", "“A dog is following me,” she said, “.”"),
    ("Who was it stopped by?", "Who stopped it?"),
    ("Is it hummed by Ann?", "Does Ann hum it?"),
    ("It must be added by us.", "We must add it."),
    ("It will be silhouetted by the sun.", "The sun will silhouette it."),
    ("It has to be filled and shipped by us.", "We have to fill and ship it."),
]
UNFAITHFUL = [
    ("The letter was written by the clerk.", "The clark wrote the letter.", "'clerk' is lost"),
    ("It will be scrubbed by us.", "We will scrubb it.", "'scrubbed' is lost"),
    ("It is hummed by Ann.", "Ann hummes it.", "'hummed' is lost"),
    ("It is planned by Ann.", "Ann is planneing it.", "'planned' is lost"),
    ("We will be misled by Ann.", "Ann will misle us.", "'misled' is lost"),
    ("The letters were written by a clerk.", "A clerk wrote the letter.", "'letters' is lost"),
    ("It was eaten by 24 boys.", "25 boys ate it.", "'24' is lost"),
    ("He was not seen by her.", "She saw him.", "a negation is lost"),
    ("The cake was made by Ann and Tom.", "Ann made the cake.", "'and' is lost"),
    ("The cake was made by Ann.", "Ann made the nice cake.", "'nice' is not in the sentence"),
    ("They say Ann was seen by Bob.", "They say bob saw ann.", "'Ann' is spelled otherwise"),
    ('"No," was said by Bob.', 'Bob said "no.', "times"),
]


@pytest.mark.parametrize(("source", "output"), FAITHFUL)
def test_the_same_in_other_words_passes(source: str, output: str) -> None:
    assert unfaithful(source, output) == ""


@pytest.mark.parametrize(("source", "output", "reason"), SIGNS)
def test_signs_are_kept(source: str, output: str, reason: str) -> None:
    assert unfaithful(source, output) == reason


@pytest.mark.parametrize(("source", "output", "reason"), UNFAITHFUL)
def test_something_else_is_told(source: str, output: str, reason: str) -> None:
    assert reason in unfaithful(source, output)


def test_someone_may_be_new_where_it_is_asked_for() -> None:
    assert unfaithful("It was sold.", "Someone sold it.") == "'someone' is not in the sentence"
    assert unfaithful("It was sold.", "Someone sold it.", may_add=True) == ""
    assert unfaithful("It wasn't sold.", "No one sold it.", may_add=True) == ""
    assert unfaithful("It was not sold by Ann.", "Ann sold it.", may_add=True) == "a negation is lost"


def test_reasons_to_keep_a_sentence() -> None:
    config = RewriteConfig(faithful=True, calibration=[1.0, 1.0, 0.0, 0.0])
    source = " It was sold by Ann. "

    def decide(text: str, logprob: float = -0.1, finish: str = "stop", threshold: float = 0.0) -> tuple[str, str]:
        found = judge(config, source, text, [logprob] * 10, finish, threshold=threshold)
        assert found.confidence == pytest.approx(1 / (1 + math.exp(-1 - 10 * logprob)))
        return found.output, found.reason

    assert decide("Ann sold it.") == (" Ann sold it. ", "")
    assert decide("It was sold by Ann.") == (source, "nothing to change")
    assert decide("") == (source, "nothing was written")
    assert decide("Anne sold it.") == (source, "the rewrite says something else: 'ann' is lost")
    assert decide("Ann sold it.", finish="length")[1].startswith("the rewrite has not ended")
    assert decide("Ann sold it.", threshold=0.9)[1] == "not sure enough: 0.50, and 0.90 is asked for"


def test_letters_that_are_not_known_are_stood_for() -> None:
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz .ABéèÉ—…")
    text = "ж was seen by Ж 🙂."
    stand_ins = StandIns(tokenizer, text)
    shown = stand_ins.put(text)
    assert tokenizer.unknown_characters(shown) == []
    assert len(shown) == len(text)
    assert stand_ins.take(shown) == text
    assert stand_ins.put("été") == "été"
    with pytest.raises(KeyError):
        StandIns(tokenizer, "ÄÖ")
    with pytest.raises(KeyError):
        StandIns(CharTokenizer("abc"), "é")


def test_section_is_checked() -> None:
    with pytest.raises(JslmError, match=r"rewrite.calibration has 2 numbers; expected 4"):
        config_from_dict({"rewrite": {"calibration": [1.0, 2.0]}}, "test")
    for settings in ({"retry_beams": 4}, {"retry_beams": 1, "faithful": True}):
        with pytest.raises(JslmError, match=r"rewrite.retry_beams = \d with rewrite.faithful = \w+; expected 0 "):
            config_from_dict({"rewrite": settings}, "test")
    for settings in ({"clause_characters": 120}, {"clause_characters": 10, "faithful": True}):
        with pytest.raises(
            JslmError, match=r"rewrite.clause_characters = \d+ with rewrite.faithful = \w+; expected 0 "
        ):
            config_from_dict({"rewrite": settings}, "test")
    assert not RewriteConfig().is_said
    assert RewriteConfig(threshold=0.5).is_said
