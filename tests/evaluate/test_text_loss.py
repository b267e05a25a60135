from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.evaluate.scoring import Window, cover, padded_length, score_windows, windows_of
from jslm.evaluate.text_loss import read_text, split_loss, text_loss
from jslm.infer import LanguageModel
from jslm.model import choose_kernels
from jslm.tokenizer import BpeTokenizer, CharTokenizer
from jslm.tokens import open_tokens
from jslm.tokens.token_file import TokenWriter

CONTEXT = 32
TEXT = "The dog saw the café, and then 🙂 the cat. " * 4


def naive_nats(model: LanguageModel, before: Sequence[int], ids: Sequence[int], stride: int) -> list[float]:
    """Token by token in float64: the first context of tokens sees all before; then windows move by the stride."""
    whole = [*before, *ids]
    first = len(before)
    nats = []
    for place in range(first, len(whole)):
        if place <= CONTEXT:
            begin = 0
        else:
            moves = -(-(place - CONTEXT) // stride)
            begin = min(CONTEXT + moves * stride, len(whole) - 1) - CONTEXT
        logits = model.logits(whole[begin:place])[0, -1].astype(np.float64)
        top = logits.max()
        nats.append(float(top + np.log(np.exp(logits - top).sum()) - logits[whole[place]]))
    return nats


@pytest.mark.parametrize("stride", [1, 5, 16, 32])
def test_every_token_once_as_one_by_one(model: LanguageModel, stride: int) -> None:
    text = TEXT[:60]
    ids = model.tokenizer.encode(text)
    expected = naive_nats(model, [model.tokenizer.bos_id], ids, stride)
    found = text_loss(model, text, stride=stride, batch_tokens=100)
    assert found.tokens == len(ids)
    assert found.nats == pytest.approx(sum(expected), rel=1e-5)


def test_figures_are_those_of_the_sums(model: LanguageModel) -> None:
    found = text_loss(model, TEXT)
    assert (found.bytes, found.characters) == (len(TEXT.encode()), len(TEXT))
    assert (found.context, found.stride) == (CONTEXT, CONTEXT // 2)
    assert found.loss == found.nats / found.tokens
    assert found.perplexity == pytest.approx(math.exp(found.nats / found.tokens))
    assert found.bits_per_byte * found.bytes == pytest.approx(found.nats / math.log(2))
    assert found.bits_per_character * found.characters == pytest.approx(found.nats / math.log(2))


@pytest.mark.parametrize("batch_tokens", [1, 64, 10**6])
def test_batching_changes_nothing(model: LanguageModel, batch_tokens: int) -> None:
    assert text_loss(model, TEXT, batch_tokens=batch_tokens).nats == pytest.approx(
        text_loss(model, TEXT).nats, rel=1e-6
    )


@pytest.mark.parametrize("length", [2, 31, 32, 33, 34, 64, 65, 100])
@pytest.mark.parametrize("stride", [1, 7, 16, 32])
@pytest.mark.parametrize("first", [1, 20, 33, 60])
def test_cover_asks_for_each_token_once(length: int, stride: int, first: int) -> None:
    spans = list(cover(length, first, CONTEXT, stride))
    asked = [place for span in spans for place in range(span.begin + span.first, span.end)]
    assert asked == list(range(first, length))
    for number, span in enumerate(spans):
        assert 1 <= span.first < span.end - span.begin <= CONTEXT + 1
        seen = span.first
        if number:
            assert seen == min(CONTEXT + 1 - (span.end - span.begin - span.first), span.begin + span.first)
            assert seen > CONTEXT - stride


def test_a_continuation_is_one_window_with_its_nearest_context() -> None:
    ids = list(range(100))
    [window] = windows_of(ids, 90, CONTEXT)
    assert window.ids.tolist() == ids[-33:]
    assert window.ids[window.first] == 90


def test_padding_and_neighbours_change_no_score(model: LanguageModel) -> None:
    choice = np.random.default_rng(0)
    windows = [Window(choice.integers(0, 256, choice.integers(2, CONTEXT + 2)), 1, n) for n in range(40)]
    together = {scored.owner: scored for scored in score_windows(model, windows, batch_tokens=128)}
    assert sorted(together) == list(range(40))
    for window in windows[::4]:
        logits = model.logits(window.ids[:-1])[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.take_along_axis(logprobs, window.ids[1:, None], 1)[:, 0]
        np.testing.assert_allclose(together[window.owner].logprobs, expected, atol=1e-4)
        assert together[window.owner].likeliest.tolist() == (logits.argmax(-1) == window.ids[1:]).tolist()


def test_large_vocabularies_are_scored_in_chunks(
    make_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = BpeTokenizer.train([TEXT], 300)
    model = make_model(tokenizer)
    expected = naive_nats(model, [tokenizer.bos_id], tokenizer.encode(TEXT), 16)
    from jslm.infer import scores as module

    tokens = np.asarray([[tokenizer.bos_id, *tokenizer.encode(TEXT)][:33]])

    def scores(chunk: int) -> tuple[Any, Any]:
        kernels = dataclasses.replace(choose_kernels(model.config.model), loss_chunk=lambda *_: chunk)
        monkeypatch.setattr(module, "choose_kernels", lambda *_: kernels)
        module.token_scores.clear_cache()  # type: ignore[attr-defined]
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        return model.programs.score(inputs, targets)

    whole, chunked = scores(32), scores(4)
    module.token_scores.clear_cache()  # type: ignore[attr-defined]
    np.testing.assert_allclose(whole[0], chunked[0], rtol=1e-6)
    np.testing.assert_array_equal(whole[1], chunked[1])
    assert text_loss(model, TEXT).nats == pytest.approx(sum(expected), rel=1e-5)


def test_padded_lengths_are_few() -> None:
    assert [padded_length(n, 1000) for n in (1, 16, 17, 25, 33, 64, 65, 97, 800, 1000)] == [
        16, 16, 24, 32, 48, 64, 96, 128, 1000, 1000,
    ]  # fmt: skip
    assert padded_length(5, 8) == 8


def test_split_is_one_stream(model: LanguageModel, data: Path) -> None:
    tokens = open_tokens(data, "val").tokens.tolist()
    found = split_loss(model, data, "val", stride=8)
    expected = naive_nats(model, [model.tokenizer.bos_id], tokens, 8)
    assert found.tokens == len(tokens)
    assert found.nats == pytest.approx(sum(expected), rel=1e-5)
    meta = open_tokens(data, "val").meta["val"]
    assert (found.bytes, found.characters, found.documents) == (meta["bytes"], meta["characters"], 3)


def test_packed_documents_stand_alone(make_model: Callable[..., LanguageModel], data: Path) -> None:
    model = make_model(data={"packing": "documents"})
    file = open_tokens(data, "val")
    found = split_loss(model, data, "val", stride=16)
    documents = np.split(file.tokens, file.offsets[1:-1].astype(np.int64))
    assert len(documents) == 3
    expected = sum(sum(naive_nats(model, [model.tokenizer.bos_id], d.tolist(), 16)) for d in documents)
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.tokens == len(file.tokens)


def test_prompts_of_pairs_are_read_and_do_not_count(model: LanguageModel, tmp_path: Path) -> None:
    tokenizer = model.tokenizer
    pairs = [("the cat was seen\t", "I saw the cat"), ("né\t", "é"), ("a long prompt that fills all\t", "x y z " * 9)]
    with TokenWriter(tmp_path, tokenizer.vocab_size, has_prompts=True) as writer:
        for prompt, completion in pairs:
            ids = tokenizer.encode(prompt + completion)
            writer.append("val", [*ids, tokenizer.eot_id], prompt_tokens=len(tokenizer.encode(prompt)))
        writer.commit({"tokenizer": {"fingerprint": tokenizer.fingerprint}, "end_of_text": True, "sources": []})
    found = split_loss(model, tmp_path, "val", stride=32)
    expected = 0.0
    for prompt, completion in pairs:
        before = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        expected += sum(scored_after(model, before, [*tokenizer.encode(completion), tokenizer.eot_id]))
    assert found.nats == pytest.approx(expected, rel=1e-5)
    completions = "".join(completion for _, completion in pairs)
    assert (found.bytes, found.characters) == (len(completions.encode()), len(completions))
    assert found.tokens == len(completions.encode()) + len(pairs)


def scored_after(model: LanguageModel, before: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Token by token: windows of 32 targets, the first of which begins with the first of `ids` where it must."""
    whole, first, nats, done = [*before, *ids], len(before), [], len(before)
    while done < len(whole):
        end = min(len(whole), max(CONTEXT + 1, done + CONTEXT))
        for place in range(done, end):
            logits = model.logits(whole[max(0, end - CONTEXT - 1) : place])[0, -1].astype(np.float64)
            nats.append(float(np.log(np.exp(logits).sum()) - logits[whole[place]]))
        done = end
    assert len(nats) == len(whole) - first
    return nats


def test_models_without_end_of_text_start_after_a_line_break(make_model: Callable[..., LanguageModel]) -> None:
    model = make_model(ends_documents=False)
    found = text_loss(model, TEXT[:20])
    assert found.nats == pytest.approx(sum(naive_nats(model, [10], model.tokenizer.encode(TEXT[:20]), 16)), rel=1e-5)


def test_unknown_characters_are_counted(make_model: Callable[..., LanguageModel]) -> None:
    model = make_model(CharTokenizer(set("abc \n")))
    assert text_loss(model, "abc xyx").unknown_characters == 3
    assert "unknown_characters" not in text_loss(model, "abc").record()


def test_bad_input(model: LanguageModel, data: Path, tmp_path: Path, make_model: Callable[..., LanguageModel]) -> None:
    with pytest.raises(JslmError, match=r"^text: empty"):
        text_loss(model, "")
    for stride in (-1, 33):
        with pytest.raises(JslmError, match=rf"^--stride {stride}: expected from 1 to the model's context of 32"):
            text_loss(model, "abc", stride=stride)
    with pytest.raises(JslmError, match=r"^--split test: expected train or val"):
        split_loss(model, data, "test")
    with pytest.raises(JslmError, match=r"tokens of tokenizer \w+, but the model has \w+"):
        split_loss(make_model(CharTokenizer(set("abc"))), data, "val")
    for name, content, message in (
        ("empty.txt", b"", "empty; expected text"),
        ("blank.txt", b" \r\n", "nothing is left of its 2 characters$"),
        ("binary.txt", b"caf\xe9\x00", "not text that can be read: not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(JslmError, match=rf"{name}: {message}"):
            read_text(tmp_path / name)
    with pytest.raises(JslmError, match=r"absent.txt: cannot be read: No such file"):
        read_text(tmp_path / "absent.txt")


@pytest.mark.parametrize("break_", ["\r\n", "\r"])
def test_a_text_is_measured_as_training_reads_it(
    model: LanguageModel, make_model: Callable[..., LanguageModel], tmp_path: Path, break_: str
) -> None:
    text = "The dog saw\nthe café,\n\nand then the cat.\n" * 3
    expected = text_loss(model, text)
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", break_).encode())
    assert text_loss(model, read_text(path)) == text_loss(model, text.replace("\n", break_)) == expected
    path.write_bytes(text.replace("\n", break_).encode("cp1252"))
    assert text_loss(model, read_text(path)) == expected
    assert expected.bytes == len(text.encode())


def test_a_text_goes_through_the_cleaners_and_separator_of_the_model(
    make_model: Callable[..., LanguageModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(data={"cleaners": ["emphasis", "normalize"], "separator": "<|sep|>"})
    path = tmp_path / "text.txt"
    path.write_text("A _cafe\u0301_.  \n\n\n\nA cat. <|sep|>\nTwo.\n<|sep|>", "utf-8", newline="\r\n")
    with caplog.at_level("INFO"):
        documents = read_text(path, model.config.data)
    assert documents == ["A café.\n\nA cat.", "Two."]
    assert "text.txt: read as in training, emphasis, normalize: 19 of 26 characters" in caplog.text
    found = text_loss(model, documents)
    assert (found.documents, found.bytes, found.tokens) == (2, 20, 20)
    assert found.nats == pytest.approx(sum(text_loss(model, each).nats for each in documents), rel=1e-6)
    path.write_text("\u200b\u200b", "utf-8")
    with pytest.raises(JslmError, match=r"nothing is left of its 2 .* \(emphasis, normalize\) of the model; data.clea"):
        read_text(path, model.config.data)
    # The advice.
    assert read_text(path) == ["\u200b\u200b"]


def test_logits_that_are_not_finite_are_an_error(
    model: LanguageModel, make_model: Callable[..., LanguageModel]
) -> None:
    broken = make_model()
    broken.params["embed"]["tokens"] = broken.params["embed"]["tokens"].at[65].set(np.nan)
    with pytest.raises(JslmError, match="not finite"):
        text_loss(broken, "A cat")
    assert text_loss(model, "A cat").tokens == 5
