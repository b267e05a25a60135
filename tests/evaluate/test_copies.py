from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.evaluate.copies import Copy, longest_copies

texts = st.lists(st.integers(0, 2), max_size=40)


def naive(sample: list[int], training: list[int], least: int) -> Copy:
    for length in range(len(sample), least - 1, -1):
        for start in range(len(sample) - length + 1):
            run = sample[start : start + length]
            if any(training[at : at + length] == run for at in range(len(training) - length + 1)):
                return Copy(start, length)
    return Copy(0, 0)


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(texts, max_size=4), st.integers(1, 6), st.integers(1, 30), st.data())
def test_as_the_naive_search(
    training: list[int], samples: list[list[int]], least: int, block: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(training)))
    samples = [*samples, training[start : start + data.draw(st.integers(0, 40))]]
    found = longest_copies(samples, np.array(training, np.uint16), least=least, block=block)
    assert found == [naive(sample, training, least) for sample in samples]


def test_a_copy_across_blocks_of_a_large_text() -> None:
    choice = np.random.default_rng(0)
    training = choice.integers(0, 1000, 300_000).astype(np.uint32)
    copied = training[65_536 - 100 : 65_536 + 233].tolist()
    samples = [[1001, *copied, 1002], choice.integers(0, 1000, 300).tolist(), copied[:8], copied[:7]]
    assert longest_copies(samples, training, block=65_536) == [Copy(1, 333), Copy(0, 0), Copy(0, 8), Copy(0, 0)]


@pytest.mark.parametrize("training", [[], [0] * 5000])
def test_extremes(training: list[int]) -> None:
    samples = [[0] * 600, [], [1] * 600]
    found = longest_copies(samples, np.array(training, np.uint16), block=700)
    assert found == [Copy(0, 600 if training else 0), Copy(0, 0), Copy(0, 0)]
