from __future__ import annotations

import random

import pytest

from jslm.config import load_config
from jslm.corpora.clause_runs import SHORTEST, clause_runs
from jslm.corpora.rewrite.parsed.parts import LONGEST, cut, is_cut


def runs(sentence: str, most: int = 120) -> list[str]:
    return [sentence[start:end] for start, end in clause_runs(sentence, most)]


def test_runs_are_cut_at_marks_and_conjunctions() -> None:
    assert runs("We left early, because the road was closed by snow.") == [
        "because the road was closed by snow.",
        "We left early,",
    ]
    found = runs("He added that the cards were sent by Ann (who lives here) and that few came back.")
    assert found[0] == "that the cards were sent by Ann (who lives here) and that few came back."
    assert "He added that the cards were sent by Ann" in found
    assert "(who lives here)" in found
    assert "and that few came back." in found
    # "And" alone joins nouns as well: half a subject would be none.
    assert runs("The cats and the dogs were fed by Ann.") == []


@pytest.mark.parametrize("word", ["who", "which", "that", "as", "where", "whose"])
def test_no_run_ends_before_what_says_more_of_its_last_word(word: str) -> None:
    sentence = f"The house was built by men {word} nobody here remembers, but it stands."
    assert f"The house was built by men {word} nobody here remembers," in runs(sentence)
    assert "The house was built by men" not in runs(sentence)


def test_runs_have_a_length_and_a_number() -> None:
    assert runs("Cold.") == runs("The letter was written by Ann.") == []
    words = [f"the item number {n}" for n in range(60)]
    sentence = ", ".join(words)
    found = clause_runs(sentence, 100)
    assert len(found) == 64
    lengths = [end - start for start, end in found]
    assert lengths == sorted(lengths, reverse=True)
    assert SHORTEST <= min(lengths) <= max(lengths) <= 100
    assert (0, len(sentence)) not in found
    assert all(text == text.strip() for text in runs(sentence, 100))
    # Linear in what can't be cut, and quick where everything can.
    assert clause_runs("a" * 100_000, 120) == []
    assert len(clause_runs("so, " * 10_000, 120)) == 64


PROMPT = "We waited, because the tall gate was locked by the porter, and it rained."
COMPLETION = "We waited, because the porter locked the tall gate, and it rained."


def cuts(prompt: str, completion: str) -> set[tuple[str, str]]:
    rng = random.Random(0)
    return {part for part in (cut(prompt, completion, rng) for _ in range(200)) if part is not None}


def test_a_part_with_all_that_changes_changes_as_the_whole_does() -> None:
    found = cuts(PROMPT, COMPLETION)
    assert ("because the tall gate was locked by the porter,", "because the porter locked the tall gate,") in found
    for part, answer in found:
        assert part in PROMPT
        assert part != answer
        assert PROMPT.replace(part, answer) == COMPLETION


def test_a_part_with_some_of_it_stays() -> None:
    prompt = "The gate, which is tall, was locked by the porter, and it rained."
    found = cuts(prompt, "The porter locked the gate, which is tall, and it rained.")
    assert ("was locked by the porter, and it rained.", "was locked by the porter, and it rained.") in found
    # Without a "by" there is nothing to learn from.
    assert not any("by" not in part for part, answer in found if part == answer)
    assert ("The gate, which is tall, was locked by the porter,", "The porter locked the gate, which is tall,") in found


def test_of_a_sentence_to_leave_alone_every_part_stays() -> None:
    found = cuts(PROMPT, PROMPT)
    assert len(found) > 3
    assert all(part == answer for part, answer in found)
    assert cut("The cat sleeps.", "The cat sleeps.", random.Random(0)) is None


def test_repeated_words_do_not_confuse_what_changes() -> None:
    prompt = "It was seen by him, and it was seen by him, and it was seen by him."
    completion = "It was seen by him, and he saw it, and it was seen by him."
    for part, answer in cuts(prompt, completion):
        assert part == answer or prompt.replace(part, answer, 1) == completion or part.count("seen") == 1


def test_long_sentences_are_cut_as_often_as_asked() -> None:
    rng = random.Random(0)
    share = {
        length: sum(is_cut("x" * length, 0.8, rng) for _ in range(4000)) / 4000 for length in (60, 61, 90, 120, 300)
    }
    assert share[60] == 0
    assert share[61] == pytest.approx(0.8 * 61 / 120, abs=0.04)
    assert share[90] == pytest.approx(0.6, abs=0.04)
    assert share[120] == pytest.approx(0.8, abs=0.04)
    assert share[300] == pytest.approx(0.8, abs=0.04)
    assert not any(is_cut("x" * 300, 0.0, rng) for _ in range(100))
    # What is asked for is what was learned.
    assert load_config("rewriter_natural_sft").rewrite.clause_characters == LONGEST
