from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jslm.errors import JslmError
from jslm.tokens.course import Course
from jslm.tokens.loader import Batch, TrainLoader, eval_batches
from jslm.tokens.shuffle import shuffled_order
from jslm.tokens.token_file import TokenFile

SIZES = st.integers(2, 60)
CONTEXTS = st.integers(1, 12)
BATCHES = st.sampled_from([4, 8, 12])


def tokens(count: int) -> TokenFile:
    """Tokens 1, 2, 3, ...: a token says where it stood, and 0 is padding."""
    return TokenFile(Path("train.bin"), np.arange(1, count + 1, dtype=np.uint16), np.zeros(1, np.uint64), {})


def loader(count: int, context: int = 4, batch: int = 4, **settings: Any) -> TrainLoader:
    return TrainLoader(tokens(count), context_length=context, batch_size=batch, **{"seed": 0} | settings)


def flat(batches: list[Batch], key: str) -> NDArray[np.int32]:
    return np.concatenate([batch[key].ravel() for batch in batches])


def targets_of_examples(source: TrainLoader, start: int, stop: int) -> list[tuple[int, ...]]:
    """Examples start..stop of the stream, put together from the batches that hold them."""
    size = source.batch_size
    rows = [row for step in range(start // size, (stop - 1) // size + 1) for row in source.batch_at(step)["targets"]]
    return [tuple(map(int, row)) for row in rows[start % size : start % size + stop - start]]


@given(SIZES, CONTEXTS, BATCHES, st.integers(0, 5), st.booleans())
def test_each_token_but_the_first_is_a_target_once_an_epoch(
    count: int, context: int, batch: int, seed: int, shuffle: bool
) -> None:
    source = loader(count, context, batch, seed=seed, shuffle=shuffle)
    size = source.examples_per_epoch
    for epoch in range(3):
        rows = targets_of_examples(source, epoch * size, (epoch + 1) * size)
        seen = [target for row in rows for target in row if target != -1]
        assert sorted(seen) == list(range(2, count + 1))


@given(SIZES, CONTEXTS, st.integers(0, 20))
def test_a_target_follows_its_input_and_padding_has_none(count: int, context: int, step: int) -> None:
    batch = loader(count, context).batch_at(step)
    inputs, targets = batch["inputs"], batch["targets"]
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (4, context)
    assert np.array_equal(np.where(targets == -1, 0, targets - 1), inputs)


@given(SIZES, CONTEXTS, BATCHES, st.integers(0, 9), st.integers(0, 2**70))
def test_the_global_batch_is_the_same_for_any_number_of_processes(
    count: int, context: int, batch: int, step: int, seed: int
) -> None:
    whole = loader(count, context, batch, seed=seed).batch_at(step)
    for processes in (2, 4):
        parts = [
            loader(count, context, batch, seed=seed, process_index=index, process_count=processes).batch_at(step)
            for index in range(processes)
        ]
        assert np.array_equal(np.concatenate([part["inputs"] for part in parts]), whole["inputs"])
        assert np.array_equal(np.concatenate([part["targets"] for part in parts]), whole["targets"])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    source = loader(401)
    size = source.examples_per_epoch
    assert size == 100
    epochs = [tuple(targets_of_examples(source, e * size, (e + 1) * size)) for e in range(5)]
    epochs += [tuple(targets_of_examples(loader(401, seed=seed), 0, size)) for seed in (1, 2, 3)]
    assert len(set(epochs)) == 8
    # Epoch e of seed s is no other seed's epoch: neighbouring seeds must not be the same run shifted.
    assert epochs[1] != epochs[5]
    plain = targets_of_examples(loader(401, shuffle=False), 0, 2 * size)
    assert [row[0] for row in plain[:3]] == [2, 6, 10]
    assert plain[:size] == plain[size:]


def test_the_order_is_fixed_for_good() -> None:
    # A resumed run must go on in the same order under every later version: never change these numbers.
    assert shuffled_order(0, 10, 10, seed=0).tolist() == [3, 6, 8, 4, 0, 5, 1, 2, 9, 7]
    assert shuffled_order(10, 20, 10, seed=0).tolist() == [7, 0, 2, 3, 8, 4, 1, 5, 6, 9]
    assert shuffled_order(999_998, 1_000_002, 1_000_000, seed=7).tolist() == [899944, 312076, 805890, 779828]


@given(st.integers(1, 5000), st.integers(0, 2**64), st.integers(0, 3))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    order = shuffled_order(epoch * size, (epoch + 1) * size, size, seed)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_small_permutations_are_all_about_equally_likely() -> None:
    orders = Counter(map(tuple, shuffled_order(0, 4 * 24_000, 4, seed=1).reshape(-1, 4)))
    assert len(orders) == 24
    # 24,000 draws of 24 outcomes: 1,000 each, with a standard deviation of 31.
    assert 850 < min(orders.values()) <= max(orders.values()) < 1150


def test_iteration_gives_the_batches_of_successive_steps() -> None:
    source = loader(400, start_step=3)
    for step in range(3, 30):
        assert source.step == step
        expected = source.batch_at(step)
        batch = next(source)
        assert np.array_equal(batch["inputs"], expected["inputs"])
        assert np.array_equal(batch["targets"], expected["targets"])
    source.close()


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_restored_state_goes_on_exactly(before: int, other: int) -> None:
    source = loader(150)
    for _ in range(before):
        next(source)
    state = json.loads(json.dumps(source.get_state()))
    assert state["step"] == before
    restored = loader(150)
    for _ in range(other):
        next(restored)
    restored.set_state(state)
    for _ in range(5):
        assert np.array_equal(next(source)["inputs"], next(restored)["inputs"])
    source.close()
    restored.close()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 7)), min_size=1, max_size=5))
def test_batch_sizes_change_and_no_sequence_is_repeated_or_skipped(parts: list[tuple[int, int]]) -> None:
    """(batch size, steps) one after the other, each going on from the saved position of the one before."""
    state: dict[str, Any] | None = None
    seen: list[list[int]] = []
    steps = 0
    for batch, count in parts:
        source = loader(400, batch=batch)
        if state is not None:
            source.set_state(json.loads(json.dumps(state)))
        for _ in range(count):
            assert source.epoch_of(source.step) == len(seen) / source.examples_per_epoch
            seen += next(source)["inputs"].tolist()
        steps += count
        assert source.step == steps
        state = source.get_state()
        source.close()
    plain = loader(400, batch=1)
    assert seen == [plain.batch_at(step)["inputs"][0].tolist() for step in range(len(seen))]
    assert state is not None
    course, _ = Course.from_state(state)
    for step in range(steps + 1):
        assert course.step_at(course.examples_before(step)) == step


def test_a_position_in_steps_of_an_older_version_is_taken() -> None:
    """After a change of batch size those counted steps of the last size; the run's own step is given beside."""
    old = {key: value for key, value in loader(400, batch=6).get_state().items() if key not in ("examples", "changes")}
    same, other = loader(400, batch=6), loader(400, batch=4)
    for source in (same, other):
        source.set_state(old | {"step": 6, "run_step": 9})
        assert (source.step, source.course.examples_before(9)) == (9, 36)
    assert np.array_equal(other.batch_at(9)["inputs"], loader(400, batch=4).batch_at(9)["inputs"])


def test_a_position_that_contradicts_itself_is_refused() -> None:
    source = loader(400)
    with pytest.raises(JslmError, match="does not come after 1 examples; it is damaged"):
        source.set_state(source.get_state() | {"examples": 1})


@pytest.mark.parametrize("change", [{"seed": 1}, {"context_length": 8}, {"examples_per_epoch": 7}, {"shuffle": False}])
def test_a_state_of_another_order_is_refused(change: dict[str, Any]) -> None:
    source = loader(400)
    (key,) = change
    with pytest.raises(JslmError, match=f"{key} = "):
        source.set_state(source.get_state() | change)
    state = source.get_state()
    del state[key]
    with pytest.raises(JslmError, match=f"no '{key}'"):
        source.set_state(state)


def test_a_text_shorter_than_a_context_is_padded_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "jslm"):
        source = loader(3, context=5, batch=2)
    assert "3 tokens are fewer than one context of 5" in caplog.text
    batch = next(source)
    source.close()
    assert batch["inputs"].tolist() == [[1, 2, 0, 0, 0]] * 2
    assert batch["targets"].tolist() == [[2, 3, -1, -1, -1]] * 2
    caplog.clear()
    loader(6, context=5)
    assert not caplog.records


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_tokens_cannot_be_trained_on(count: int) -> None:
    with pytest.raises(JslmError, match=f"{count} token.*at least 2"):
        loader(count)
    assert list(eval_batches(tokens(count), 4, 4)) == []


def test_a_batch_larger_than_the_corpus_wraps_around() -> None:
    source = loader(9, context=4, batch=7)
    assert source.examples_per_epoch == 2
    assert source.epoch_of(2) == 7.0
    assert source.steps_per_epoch == 2 / 7
    rows = Counter(targets_of_examples(source, 0, 14))
    assert sorted(rows.values()) == [7, 7]


def test_processes_must_divide_the_batch() -> None:
    with pytest.raises(JslmError, match="batch of 4 sequences can't be shared by 3 processes"):
        loader(100, process_count=3)
    with pytest.raises(JslmError, match="multiples of 3"):
        eval_batches(tokens(100), 4, 4, process_count=3)


@given(st.integers(2, 80), CONTEXTS, st.sampled_from([1, 2, 4]))
def test_evaluation_counts_each_token_once_in_order(count: int, context: int, processes: int) -> None:
    parts = [list(eval_batches(tokens(count), context, 4, 0, index, processes)) for index in range(processes)]
    assert {batch["targets"].shape for part in parts for batch in part} == {(4 // processes, context)}
    together = [batch for batches in zip(*parts, strict=True) for batch in batches]
    targets = flat(together, "targets")
    assert targets[targets != -1].tolist() == list(range(2, count + 1))
    inputs = flat(together, "inputs")
    assert inputs[inputs != 0].tolist() == list(range(1, count))


def test_a_limited_evaluation_is_spread_over_the_split() -> None:
    batches = list(eval_batches(tokens(4001), 4, 5, max_batches=2))
    first = flat(batches, "inputs").reshape(-1, 4)[:, 0]
    assert first.tolist() == [1 + 400 * i for i in range(10)]
    assert np.array_equal(flat(list(eval_batches(tokens(4001), 4, 5, 2)), "inputs"), flat(batches, "inputs"))
    # Enough batches for all of it: the same as no limit.
    assert len(list(eval_batches(tokens(41), 4, 5, max_batches=3))) == 2


def test_a_closed_loader_leaves_no_thread_and_can_go_on() -> None:
    source = loader(400)
    next(source)
    source.close()
    deadline = time.monotonic() + 5
    while any("grain" in thread.name for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if "grain" in thread.name]
    assert np.array_equal(next(source)["inputs"], source.batch_at(1)["inputs"])
    source.close()


def test_ten_million_tokens_a_second_in_constant_memory() -> None:
    big = np.zeros(1, np.uint16)
    big = np.lib.stride_tricks.as_strided(big, (2_000_000_000,), (0,))
    source = TrainLoader(
        TokenFile(Path("train.bin"), big, np.zeros(1, np.uint64), {}), context_length=256, batch_size=32, seed=0
    )
    source.batch_at(0)
    tracemalloc.start()
    source.batch_at(900_000)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    # Best of several: other work on the machine only ever slows it.
    seconds = []
    for first in range(0, 1000, 100):
        started = time.process_time()
        for step in range(first, first + 100):
            source.batch_at(step)
        seconds.append(time.process_time() - started)
    assert 100 * 32 * 256 / min(seconds) > 10_000_000
    assert next(itertools.islice(source, 1))["inputs"].shape == (32, 256)
    source.close()
