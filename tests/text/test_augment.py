"""Altered copies: what they may change, that validation is left alone, and that the same seed gives the same bytes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.config import AugmentConfig
from jslm.text.augment import add_noise, augment, drop_sentences, piece_rng, with_copies

TEXTS = st.text(st.sampled_from('abcÄß .!?…"\n'), max_size=80)
STORY = 'Tom had a dog. "Sit!" he said. The dog sat?! Then\nit slept.\n\nThe End'


@dataclass(frozen=True)
class Piece:
    text: str
    split: str = "train"
    bits: float | None = 3.0


def config(**values: float) -> AugmentConfig:
    return AugmentConfig(**{"copies": 1, **values})  # type: ignore[arg-type]


def test_sentences_are_found_with_their_white_space() -> None:
    pieces = {drop_sentences(STORY, 0.999, random.Random(seed)) for seed in range(200)}
    assert pieces == {"Tom had a dog. ", '"Sit!" ', "he said. ", "The dog sat?! ", "Then\nit slept.\n\n", "The End"}


@settings(deadline=None)
@given(TEXTS, st.integers(0, 99), st.floats(0, 0.99))
def test_dropping_leaves_whole_sentences_in_order(text: str, seed: int, chance: float) -> None:
    assert drop_sentences(text, 0.0, random.Random(seed)) == text
    left = drop_sentences(text, chance, random.Random(seed))
    assert bool(left) == bool(text)
    rest = iter(text)
    assert all(character in rest for character in left), "a subsequence"


@settings(deadline=None)
@given(TEXTS, st.integers(0, 99), st.floats(0, 0.99))
def test_noise_touches_letters_alone_and_brings_no_new_ones(text: str, seed: int, chance: float) -> None:
    assert add_noise(text, 0.0, random.Random(seed)) == text
    noisy = add_noise(text, chance, random.Random(seed))
    assert set(noisy) <= set(text)
    assert [c for c in noisy if not c.isalpha()] == [c for c in text if not c.isalpha()]


def test_noise_is_as_frequent_as_asked_and_of_four_kinds() -> None:
    words = [letter * 2 for letter in "abcdefghijklmnopqrstuvwxyz"] * 800
    lone = add_noise(" ".join(word[0] for word in words), 0.1, random.Random(1)).split(" ")
    # A lone letter can't be swapped: half of the mistakes put another one there, which seldom is the same.
    kinds = Counter(
        "same" if a == b[0] else a if a == "" else "double" if a == b else "other"
        for a, b in zip(lone, words, strict=True)
    )
    for kind, share in {"same": 0.9 + 0.05 / 26, "": 0.025, "double": 0.025, "other": 0.05 * 25 / 26}.items():
        assert abs(kinds[kind] / len(words) - share) < 0.006, kind
    pairs = add_noise(" ".join(["ab"] * 20_000), 0.1, random.Random(1)).split(" ")
    assert abs(pairs.count("ba") / 20_000 - 0.025) < 0.006


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_in_lower_case(share: float) -> None:
    settings_ = config(lowercase=share, drop_sentences=0.1)
    lower = sum(augment("AB. CD. EF.", settings_, piece_rng(settings_, 0, n)).islower() for n in range(2000))
    assert abs(lower / 2000 - share) < 0.04


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["train", "val"])), max_size=8), st.integers(0, 3), st.integers(0, 9))
def test_copies_follow_the_corpus_and_leave_validation_alone(
    documents: list[tuple[str, str]], copies: int, seed: int
) -> None:
    settings_ = config(copies=copies, seed=seed, noise=0.2, lowercase=0.5) if copies else AugmentConfig()
    pieces = [Piece(text, split) for text, split in documents]
    found = list(with_copies(lambda: iter(pieces), settings_))
    assert found[: len(pieces)] == pieces
    extra = found[len(pieces) :]
    assert all(piece.split == "train" and piece.bits is None and piece.text for piece in extra)
    wanted = [
        text
        for copy in range(copies)
        for number, piece in enumerate(pieces)
        if piece.split == "train"
        and (text := augment(piece.text, settings_, piece_rng(settings_, copy, number))) not in ("", piece.text)
    ]
    assert [piece.text for piece in extra] == wanted
    assert list(with_copies(lambda: iter(pieces), settings_)) == found


def test_copies_and_seeds_differ() -> None:
    made = {
        augment(STORY, config(noise=0.2, seed=seed), piece_rng(config(noise=0.2, seed=seed), copy, number))
        for seed in range(3)
        for copy in range(3)
        for number in range(3)
    }
    assert len(made) == 27


def test_the_copies_are_fixed_for_good() -> None:
    # Prepared again by a later version, the files have to be the same: never change this text.
    settings_ = config(noise=0.1, drop_sentences=0.2, lowercase=0.5, seed=5)
    assert [augment(STORY, settings_, piece_rng(settings_, 0, number)) for number in range(2)] == [
        "top had a doh. he said. thp odg sat?! then\ni lpt.\n\nthe end",
        'Tom had a dog. "Siit!" The dog sat?! The End',
    ]
