"""Overlapping windows, mixtures, stages of context and masked prompts, each against a naive account of its rows."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jslm.errors import JslmError
from jslm.tokens.loader import Batch, TrainLoader, count_examples, eval_batches
from jslm.tokens.mixture import BLOCK, Mixture
from jslm.tokens.packing import PackedDocuments
from jslm.tokens.token_file import TokenFile
from jslm.tokens.windows import Windows

EOT = 0


def stream(count: int, first: int = 1) -> TokenFile:
    """One text of tokens first, first + 1, ...: a token says where it stood, and 0 is padding."""
    tokens = np.arange(first, first + count, dtype=np.uint32)
    return TokenFile(Path("train.bin"), tokens, np.array([0, count], np.uint64), {"end_of_text": False})


def documents(sizes: list[int], first: int = 1, prompts: list[int] | None = None) -> TokenFile:
    """Documents of these sizes whose tokens count up from `first` through the file, each closed by 0."""
    tokens: list[int] = []
    offsets = [0]
    for size in sizes:
        tokens += [*range(first, first + size), EOT]
        first += size
        offsets.append(len(tokens))
    return TokenFile(
        Path("train.bin"),
        np.array(tokens, np.uint32),
        np.array(offsets, np.uint64),
        {"end_of_text": True},
        None if prompts is None else np.array(prompts, np.uint32),
    )


def sequences(source: TrainLoader, start: int, stop: int) -> list[tuple[int, ...]]:
    """Targets of sequences start..stop of the stream, put together from the batches that hold them."""
    size, length = source.batch_size, source.get_state()["context_length"]
    rows = [
        row
        for step in range(start // size, (stop - 1) // size + 1)
        for row in source.batch_at(step)["targets"].reshape(-1, length)
    ]
    return [tuple(map(int, row)) for row in rows[start % size : start % size + stop - start]]


def counted(rows: list[tuple[int, ...]]) -> Counter[int]:
    return Counter(target for row in rows for target in row if target != -1)


def assert_same(found: Batch, wanted: Batch) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


# Overlapping windows.


@settings(deadline=None)
@given(st.integers(2, 80), st.integers(1, 12), st.data(), st.integers(0, 3))
def test_overlapping_windows_hold_what_a_plain_loop_cuts(count: int, length: int, data: Any, seed: int) -> None:
    stride = data.draw(st.integers(1, length))
    file = stream(count)
    windows = Windows(file, length, stride)
    shortest, longest = windows.first_lengths
    assert 1 <= shortest <= longest == length
    first = data.draw(st.integers(shortest, longest))
    rows = windows.gather(np.arange(windows.count), np.full(windows.count, first))
    expected, end = [], first
    while True:
        begin = max(0, end - length)
        expected.append(list(range(begin + 2, min(end, count - 1) + 2)))
        if end >= count - 1:
            break
        end += stride
    found = [[int(t) for t in row if t != -1] for row in rows["targets"]]
    assert found == expected
    assert np.array_equal(np.where(rows["targets"] == -1, 0, rows["targets"] - 1), rows["inputs"])
    # Each window comes exactly once an epoch, so each token at least once and never over ceil(length / stride) times.
    source = TrainLoader(file, context_length=length, batch_size=4, seed=seed, stride=stride)
    size = source.examples_per_epoch
    assert size == count_examples(file, length, "windows", stride) == windows.count
    for epoch in range(2):
        seen = counted(sequences(source, epoch * size, (epoch + 1) * size))
        assert sorted(seen) == list(range(2, count + 1))
        assert max(seen.values()) <= -(-length // stride)


def test_a_stride_of_one_context_is_no_overlap() -> None:
    plain = TrainLoader(stream(1000), context_length=16, batch_size=4, seed=3)
    same = TrainLoader(stream(1000), context_length=16, batch_size=4, seed=3, stride=16)
    for step in range(40):
        assert_same(same.batch_at(step), plain.batch_at(step))


# Mixtures.

CORPORA = st.lists(st.tuples(st.integers(2, 40), st.floats(0.01, 10.0)), min_size=1, max_size=4)


def mixed(parts: list[tuple[int, float]], batch: int = 4, **options: Any) -> TrainLoader:
    """Corpora of consecutive numbers: corpus c's are from 100_000 * c on."""
    files = [stream(size, 100_000 * index + 1) for index, (size, _) in enumerate(parts)]
    weights = [weight for _, weight in parts]
    return TrainLoader(files, weights=weights, batch_size=batch, **{"context_length": 4, "seed": 0} | options)


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(0, 5), st.booleans())
def test_each_corpus_comes_exactly_once_in_each_of_its_epochs(
    parts: list[tuple[int, float]], seed: int, shuffle: bool
) -> None:
    source = mixed(parts, seed=seed, shuffle=shuffle)
    rows = sequences(source, 0, 600)
    for index, (size, _) in enumerate(parts):
        base = 100_000 * index
        own = [row for row in rows if base < row[0] <= base + 100_000]
        epoch = -(-(size - 1) // 4)
        for start in range(0, len(own) - epoch + 1, epoch):
            assert counted(own[start : start + epoch]) == Counter(range(base + 2, base + size + 1))
    assert len(rows) == 600


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=6), st.integers(0, 2**70), st.integers(0, 5))
def test_shares_are_exact_in_every_block(weights: list[float], seed: int, blocks: int) -> None:
    parts = [Windows(stream(50 + index), 4) for index in range(len(weights))]
    mixture = Mixture(parts, weights, seed, shuffle=True)
    seen = np.zeros(len(weights))
    for number in range(blocks):
        seen += np.bincount(mixture.block(number)[0], minlength=len(weights))
    wanted = np.array(weights) / sum(weights) * blocks * BLOCK
    assert np.abs(seen - wanted).max(initial=0) <= len(weights)
    passes = np.array(mixture.passes(blocks * BLOCK))
    np.testing.assert_allclose(passes, seen / [part.count for part in parts])


@settings(deadline=None)
@given(CORPORA, st.integers(0, 2000), st.integers(0, 9))
def test_the_batch_of_a_mixture_is_the_same_for_any_number_of_processes(
    parts: list[tuple[int, float]], step: int, seed: int
) -> None:
    whole = mixed(parts, seed=seed).batch_at(step)
    for processes in (2, 4):
        shares = [
            mixed(parts, seed=seed, process_index=index, process_count=processes).batch_at(step)
            for index in range(processes)
        ]
        assert_same({name: np.concatenate([share[name] for share in shares]) for name in whole}, whole)


def test_a_mixture_of_one_is_the_corpus_itself() -> None:
    alone = TrainLoader(stream(500), context_length=4, batch_size=4, seed=9)
    for step in (0, 3, 5000):
        assert_same(mixed([(500, 0.3)], seed=9).batch_at(step), alone.batch_at(step))


def test_the_order_of_a_mixture_is_fixed_for_good() -> None:
    # A resumed run must go on in the same order under every later version: never change these numbers.
    block = Mixture([Windows(stream(401), 4), Windows(stream(101), 4)], [3.0, 1.0], 0, shuffle=True).block(0)
    assert block[0, :24].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert block[1, :8].tolist() == [96, 80, 7, 76, 77, 20, 46, 15]


def test_corpora_of_one_size_have_orders_of_their_own() -> None:
    rows = sequences(mixed([(401, 1.0), (401, 1.0)]), 0, 200)
    first, second = ([row[0] % 100_000 for row in rows if row[0] // 100_000 == index] for index in (0, 1))
    assert first[:50] != second[:50]


def test_mixed_documents_keep_their_masks() -> None:
    files = [documents([3, 9, 30, 1, 7]), documents([4, 2, 20, 6], 1000, prompts=[2, 1, 5, 3])]
    source = TrainLoader(files, context_length=16, batch_size=2, seed=0, packing="documents", weights=[1.0, 2.0])
    rows = sequences(source, 0, 64)
    completions = [*range(1002, 1004), EOT, 1005, EOT, *range(1011, 1026), EOT, *range(1029, 1032), EOT]
    own = [row for row in rows if max(row) >= 1000]
    epoch = PackedDocuments(files[1], 16).count
    assert counted(own[:epoch]) == counted(own[epoch : 2 * epoch]) == Counter(completions)


# Stages of context.


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=30),
    st.sampled_from(["windows", "documents"]),
    st.lists(st.sampled_from([1, 2, 4]), unique=True, max_size=3),
    st.lists(st.integers(1, 12), unique=True, min_size=3, max_size=3),
    st.sampled_from([1, 2]),
)
def test_stages_cut_the_same_sequences(
    sizes: list[int], packing: Any, contexts: list[int], ends: list[int], processes: int
) -> None:
    stages = list(zip(sorted(contexts), sorted(ends), strict=False))
    file = documents(sizes)
    options: dict[str, Any] = {"context_length": 8, "batch_size": 4, "seed": 1, "packing": packing}
    whole = TrainLoader(file, **options)
    parts = [
        TrainLoader(file, stages=stages, process_index=index, process_count=processes, **options)
        for index in range(processes)
    ]
    for step in range(14):
        context = next((context for context, end in stages if step < end), 8)
        wanted = whole.batch_at(step)
        batches = [part.batch_at(step) for part in parts]
        for name, rows in wanted.items():
            found = np.concatenate([batch[name] for batch in batches])
            assert found.shape == (4 * 8 // context, context)
            assert np.array_equal(found.reshape(4, 8), rows)


def test_a_run_goes_on_in_the_stage_where_it_was() -> None:
    def loader() -> TrainLoader:
        return TrainLoader(stream(700), context_length=8, batch_size=2, seed=0, stages=[(2, 3), (4, 6)])

    source = loader()
    shapes = [next(source)["inputs"].shape for _ in range(8)]
    assert shapes == [(8, 2)] * 3 + [(4, 4)] * 3 + [(2, 8)] * 2
    source.close()
    for stop in range(8):
        before, after = loader(), loader()
        for _ in range(stop):
            next(before)
        after.set_state(json.loads(json.dumps(before.get_state())))
        assert_same(next(after), loader().batch_at(stop))
        before.close()
        after.close()


# Prompts.

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(2, 20))
def test_prompts_are_read_and_never_learned(pairs: list[tuple[int, int]], length: int) -> None:
    prompts = [prompt for prompt, _ in pairs]
    file = documents([prompt + answer for prompt, answer in pairs], prompts=prompts)
    packed = PackedDocuments(file, length)
    rows = packed.gather(np.arange(packed.count), np.full(packed.count, length))
    plain = PackedDocuments(documents([prompt + answer for prompt, answer in pairs]), length)
    unmasked = plain.gather(np.arange(plain.count), np.full(plain.count, length))
    np.testing.assert_array_equal(rows["inputs"], unmasked["inputs"])
    np.testing.assert_array_equal(rows["segments"], unmasked["segments"])
    is_prompt = {
        token
        for prompt, begin in zip(prompts, np.cumsum([0, *map(sum, pairs)])[:-1], strict=True)
        for token in range(begin + 1, begin + prompt + 1)
    }
    expected = np.where(np.isin(unmasked["targets"], list(is_prompt)), -1, unmasked["targets"])
    np.testing.assert_array_equal(rows["targets"], expected)
    assert packed.targets == np.count_nonzero(rows["targets"] >= 0) == sum(answer + 1 for _, answer in pairs)


def test_pairs_over_a_context_are_said(caplog: pytest.LogCaptureFixture) -> None:
    PackedDocuments(documents([30, 4], prompts=[5, 1]), 16)
    assert "1 of 2 pairs are over one context of 16 tokens" in caplog.text
    caplog.clear()
    PackedDocuments(documents([15, 4], prompts=[5, 1]), 16)
    assert not caplog.records


def test_pairs_that_would_be_cut_apart_are_refused() -> None:
    file = documents([5, 6], prompts=[2, 2])
    options: dict[str, Any] = {"context_length": 8, "batch_size": 2, "seed": 0}
    with pytest.raises(JslmError, match=r"data\.packing = 'documents', found 'windows'"):
        TrainLoader(file, **options)
    with pytest.raises(JslmError, match=r"data\.packing = 'documents', found 'windows'"):
        list(eval_batches(file, 8, 2))
    with pytest.raises(JslmError, match=r"train\.curriculum would cut apart"):
        TrainLoader(file, packing="documents", stages=[(4, 10)], **options)


# All of it.


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.sampled_from([0, 1, 3]), st.integers(0, 40), st.sampled_from([(), ((2, 9),)]))
def test_a_restored_state_goes_on_exactly(
    parts: list[tuple[int, float]], stride: int, before: int, stages: tuple[tuple[int, int], ...]
) -> None:
    options: dict[str, Any] = {"stride": stride, "stages": stages}
    source, plain = mixed(parts, **options), mixed(parts, **options)
    for _ in range(before):
        next(source)
    restored = mixed(parts, **options)
    restored.set_state(json.loads(json.dumps(source.get_state())))
    for step in range(before, before + 3):
        assert_same(next(restored), plain.batch_at(step))
    for loader in (source, restored):
        loader.close()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"weights": [1.0, 2.0]}, "weights"),
        ({"stride": 2}, "examples_per_epoch"),
        ({"packing": "documents"}, "packing|examples_per_epoch"),
    ],
)
def test_a_state_of_another_cut_is_refused(change: dict[str, Any], key: str) -> None:
    files = [stream(100), stream(60, 1000)]
    options: dict[str, Any] = {"context_length": 4, "batch_size": 4, "seed": 0, "weights": [1.0, 1.0]}
    state = TrainLoader(files, **options).get_state()
    with pytest.raises(JslmError, match=f"({key}) = "):
        TrainLoader(files, **options | change).set_state(state)


def test_a_state_of_the_same_cut_in_other_words_is_taken() -> None:
    files = [stream(100), stream(60, 1000)]
    options: dict[str, Any] = {"context_length": 4, "batch_size": 4, "seed": 0}
    state = TrainLoader(files, start_step=5, weights=[2.0, 6.0], **options).get_state()
    source = TrainLoader(files, weights=[0.5, 1.5], stride=4, stages=[(2, 9)], **options)
    source.set_state(state)
    assert source.step == 5


def test_other_data_of_the_same_size_is_refused() -> None:
    def of(sha: str) -> TrainLoader:
        file = stream(100)
        file = TokenFile(file.path, file.tokens, file.offsets, {"train": {"sha256": sha}})
        return TrainLoader(file, context_length=4, batch_size=4, seed=0)

    with pytest.raises(JslmError, match=r"data = \['aa'\], but this run has \['bb'\]"):
        of("bb").set_state(of("aa").get_state())


def test_a_position_saved_before_mixtures_existed_is_taken() -> None:
    source = TrainLoader(stream(100), context_length=4, batch_size=4, seed=0)
    old = {key: source.get_state()[key] for key in ("step", "seed", "shuffle", "examples_per_epoch", "context_length")}
    source.set_state(old | {"step": 7, "batch_size": 4})
    assert source.step == 7


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.sampled_from([1, 2]), st.integers(0, 3))
def test_validation_on_a_mixture_takes_all_of_each(sizes: list[int], processes: int, limit: int) -> None:
    files = [stream(size, 1000 * index + 1) for index, size in enumerate(sizes)]
    parts = [list(eval_batches(files, 4, 4, limit, index, processes)) for index in range(processes)]
    together: list[NDArray[np.int32]] = [batch["targets"] for batches in zip(*parts, strict=True) for batch in batches]
    found = [int(target) for rows in together for target in rows.ravel() if target != -1]
    wanted = list(itertools.chain(*(range(1000 * i + 2, 1000 * i + size + 1) for i, size in enumerate(sizes))))
    if limit and count_examples(files, 4) > limit * 4:
        assert len(together) == limit * processes
        assert set(found) <= set(wanted)
        assert len(set(found)) == len(found)
    else:
        assert found == wanted


def test_a_corpus_without_text_is_named() -> None:
    with pytest.raises(JslmError, match=r"train\.bin: 1 token\(s\); training needs at least 2"):
        mixed([(40, 1.0), (1, 1.0)])
