"""Packed documents: every token a target once, none cut that fits, rows filled, and a model that sees no other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.config import ModelConfig
from jslm.model import apply_decoder, init_params, loss_sums
from jslm.tokens.loader import TrainLoader, eval_batches
from jslm.tokens.packing import PackedDocuments
from jslm.tokens.token_file import TokenFile

EOT = 0


def token_file(sizes: list[int], end_of_text: bool = True) -> TokenFile:
    """Documents of these sizes whose tokens count up from 1 through the file, each closed by 0 where asked."""
    count, documents = 1, []
    for size in sizes:
        documents.append([*range(count, count + size), *([EOT] if end_of_text else [])])
        count += size
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.uint64)
    tokens = np.array([token for document in documents for token in document], np.uint32)
    return TokenFile(Path("made-up.bin"), tokens, offsets, {"end_of_text": end_of_text})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(2, 24), st.booleans())
def test_every_token_is_a_target_once_after_its_own_past(sizes: list[int], length: int, end_of_text: bool) -> None:
    file = token_file(sizes, end_of_text)
    packed = PackedDocuments(file, length)
    rows = packed.gather(np.arange(packed.count))
    wanted = []
    for start, stop in zip(file.offsets[:-1].astype(int), file.offsets[1:].astype(int), strict=True):
        document = file.tokens[start:stop].tolist()
        pairs = list(zip([EOT, *document], document, strict=False)) if end_of_text else itertools.pairwise(document)
        wanted += list(pairs)
    counted = rows["targets"] >= 0
    assert sorted(zip(rows["inputs"][counted], rows["targets"][counted], strict=True)) == sorted(wanted)
    assert np.array_equal(rows["segments"] > 0, counted)
    assert packed.targets == len(wanted)
    # A document that fits is never cut: its first and last target stand in one row, in one segment.
    for row, segments in zip(rows["targets"], rows["segments"], strict=True):
        for number in range(1, segments.max(initial=0) + 1):
            piece = row[segments == number]
            assert len(piece)
            assert np.array_equal(
                np.flatnonzero(segments == number), np.arange(len(piece)) + (segments == number).argmax()
            )


def test_best_fit_leaves_little_room() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 60, 2000).tolist()
    packed = PackedDocuments(token_file(sizes), 64)
    assert packed.targets / (packed.count * 64) > 0.97
    whole = [size + 1 for size in sizes if size + 1 <= 64]
    segments = packed.gather(np.arange(packed.count))["segments"]
    assert sum(int(row.max()) for row in segments) == len(whole) == len(sizes)


def test_an_epoch_of_batches_is_the_corpus_and_processes_share_it() -> None:
    file = token_file([3, 9, 30, 1, 7, 7, 12])

    def loader(index: int = 0, count: int = 1):  # type: ignore[no-untyped-def]
        return TrainLoader(
            file, context_length=8, batch_size=2, seed=5, process_index=index, process_count=count, packing="documents"
        )

    whole = loader()
    rows = whole.examples_per_epoch
    batches = [whole.batch_at(step) for step in range(rows)]
    targets = np.concatenate([batch["targets"] for batch in batches])
    first, second = targets[:rows], targets[rows:]
    for epoch in (first, second):
        assert sorted(epoch[epoch >= 0].tolist()) == sorted(file.tokens.tolist())
    assert not np.array_equal(first, second)
    halves = [loader(index, 2).batch_at(3) for index in range(2)]
    for name, value in batches[3].items():
        assert np.array_equal(np.concatenate([half[name] for half in halves]), value)


def test_validation_takes_every_row_once() -> None:
    file = token_file([3, 9, 30, 1, 7])
    batches = list(eval_batches(file, 8, 4, packing="documents"))
    found = np.concatenate([batch["targets"].ravel() for batch in batches])
    assert sorted(found[found >= 0].tolist()) == sorted(file.tokens.tolist())
    assert all(batch["inputs"].shape == (4, 8) for batch in batches)


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_documents_of_a_row_do_not_see_each_other(position: Literal["rope", "learned"]) -> None:
    config = ModelConfig(
        n_layers=2,
        d_model=16,
        n_heads=2,
        context_length=16,
        vocab_size=40,
        position=position,
        init_std=0.3,
    )
    params = init_params(config, jax.random.key(0))
    packed = PackedDocuments(token_file([5, 6]), 16)
    batch = {name: jnp.asarray(rows) for name, rows in packed.gather(np.arange(1)).items()}
    assert batch["segments"].max() == 2
    together = apply_decoder(params, batch["inputs"], config, segments=batch["segments"])
    for number in (1, 2):
        inside = np.asarray(batch["segments"][0] == number)
        alone = apply_decoder(params, batch["inputs"][:, inside], config)
        np.testing.assert_allclose(together[:, inside], alone, atol=1e-5)
    # The loss is that of the documents one by one; padding adds nothing.
    loss, _ = loss_sums(params, batch["inputs"], batch["targets"], config, segments=batch["segments"])
    parts = [
        loss_sums(params, batch["inputs"][:, inside], batch["targets"][:, inside], config)[0]
        for inside in (np.asarray(batch["segments"][0] == number) for number in (1, 2))
    ]
    np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)
