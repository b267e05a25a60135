"""The byte 5-gram against the same with dictionaries, and where it is said."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jslm.evaluate import baseline as module
from jslm.evaluate import split_baseline
from jslm.evaluate.__main__ import main
from jslm.evaluate.baseline import CACHE_NAME, Baseline, text_baseline
from jslm.evaluate.ngram import DOCUMENT_END, ORDER, Ngram, numbers
from jslm.tokenizer import ByteTokenizer, CharTokenizer
from jslm.tokens.token_file import TokenWriter

from .conftest import DOCUMENTS

TEXT = b"the cat sat on the mat, and the rat sat on the cat; a cat that sat is a fat cat. " * 2 + b"zebra"
OTHER = b"a rat that sat on a zebra; the quick brown \xff fox"


class Plain:
    """Interpolated Kneser-Ney as the papers write it."""

    def __init__(self, text: Sequence[int], alphabet: int, order: int) -> None:
        self.alphabet = alphabet
        self.counts: dict[int, Counter[tuple[int, ...]]] = {}
        self.counts[order] = Counter(tuple(text[at : at + order]) for at in range(len(text) - order + 1))
        for size in range(order - 1, 0, -1):
            before = defaultdict(set)
            for gram in self.counts[size + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[size] = Counter({gram: len(found) for gram, found in before.items()})
        self.discounts = {}
        for size, counts in self.counts.items():
            ones, twos = (sum(count == number for count in counts.values()) for number in (1, 2))
            self.discounts[size] = ones / (ones + 2 * twos) if ones and twos else 0.5

    def probability(self, gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / self.alphabet
        counts, discount = self.counts[len(gram)], self.discounts[len(gram)]
        follow = [count for other, count in counts.items() if other[:-1] == gram[:-1]]
        if not follow:
            return self.probability(gram[1:])
        left = discount * len(follow) / sum(follow)
        return max(counts[gram] - discount, 0.0) / sum(follow) + left * self.probability(gram[1:])

    def bits(self, text: Sequence[int], order: int) -> float:
        return -sum(
            math.log2(self.probability(tuple(text[max(0, at + 1 - order) : at + 1]))) for at in range(len(text))
        )


def bits_per_byte(training: bytes, held_out: bytes, order: int = ORDER) -> float:
    symbols, unseen = (np.frombuffer(text, np.uint8) for text in (training, held_out))
    return Ngram(symbols, order=order).bits(unseen) / len(held_out)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("training", [TEXT, b"abab", b"a", b""])
def test_bits_are_those_of_the_definition(training: bytes, order: int) -> None:
    expected = Plain(training, 256, order).bits(OTHER, order) / len(OTHER)
    assert bits_per_byte(training, OTHER, order=order) == pytest.approx(expected, rel=1e-12)
    # Short ones too, which end before a context is full.
    for size in range(1, 6):
        assert bits_per_byte(training, OTHER[:size], order=order) == pytest.approx(
            Plain(training, 256, order).bits(OTHER[:size], order) / size, rel=1e-12
        )


@pytest.mark.parametrize("alphabet", [256, 257])
def test_probabilities_sum_to_one(alphabet: int) -> None:
    symbols = np.frombuffer(TEXT, np.uint8).astype(np.uint16)
    symbols[::40] = alphabet - 1
    model = Ngram(symbols, alphabet=alphabet)
    for context in (b"", b"t", b"at", b"e ca", b"sat ", b"qqqq", b"\x00the"[-4:]):
        before = sum(symbol * alphabet**place for place, symbol in enumerate(reversed(context), start=1))
        found = model.probabilities(before + np.arange(alphabet, dtype=np.int64), len(context) + 1)
        assert found.min() > 0
        assert found.sum() == pytest.approx(1.0, abs=1e-12)


def test_what_does_not_count_is_only_read() -> None:
    symbols = np.frombuffer(OTHER, np.uint8)
    model = Ngram(np.frombuffer(TEXT, np.uint8))
    counted = np.arange(len(symbols)) % 3 == 1
    assert model.bits(symbols, counted) + model.bits(symbols, ~counted) == pytest.approx(model.bits(symbols))
    assert numbers(symbols[:2], 2, 256).tolist() == [256 * OTHER[0] + OTHER[1]]


def test_text_that_was_counted_is_foretold_better() -> None:
    assert bits_per_byte(TEXT, TEXT) < 1.0 < bits_per_byte(OTHER, TEXT)
    with pytest.raises(ValueError, match="63 bits"):
        Ngram(np.zeros(9, np.int64), alphabet=257, order=8)


def symbols_of(documents: Sequence[str]) -> list[int]:
    return [symbol for text in documents for symbol in (*text.encode(), DOCUMENT_END)]


def test_prepared_data_is_read_byte_by_byte_and_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns(CACHE_NAME))
    training, held_out = symbols_of(DOCUMENTS["train"]), symbols_of(DOCUMENTS["val"])
    plain = Plain(training, 257, 5)
    size = sum(len(text.encode()) for text in DOCUMENTS["val"])
    found = split_baseline([folder], ByteTokenizer())
    assert found is not None
    assert found.bits_per_byte == pytest.approx(plain.bits(held_out, 5) / size, rel=1e-12)
    assert (found.held_out_bytes, found.training_bytes) == (size, found.all_training_bytes)
    assert found.said(1.5).endswith(" bits a byte; the model: 1.5")
    # A text is read after the end of a document, which is not asked for.
    text = "The dog."
    of_text = text_baseline([folder], ByteTokenizer(), [text])
    assert of_text is not None
    alone = plain.bits([DOCUMENT_END, *text.encode()], 5) - plain.bits([DOCUMENT_END], 5)
    assert of_text.bits_per_byte == pytest.approx(alone / len(text), rel=1e-12)
    assert text_baseline([folder], ByteTokenizer(), [""]) is None

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(module, "Ngram", fail)
    assert split_baseline([folder], ByteTokenizer()) == found
    assert text_baseline([folder], ByteTokenizer(), [text]) == of_text
    with pytest.raises(AssertionError, match="counted again"):
        text_baseline([folder], ByteTokenizer(), ["The cat."])
    (folder / CACHE_NAME).write_text("{}")
    with pytest.raises(AssertionError, match="counted again"):
        split_baseline([folder], ByteTokenizer())


def test_tokens_of_several_bytes_and_prompts(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train(["aöü🙂 "])
    pairs = [("aö", "ü🙂a"), ("🙂", "aa"), ("ü ", "ö")]
    with TokenWriter(tmp_path, tokenizer.vocab_size, has_prompts=True) as writer:
        for split in ("train", "val"):
            for prompt, completion in pairs:
                ids = [*tokenizer.encode(prompt + completion), tokenizer.eot_id]
                size = len((prompt + completion).encode())
                writer.append(split, ids, utf8_bytes=size, prompt_tokens=len(prompt))
        writer.commit({"tokenizer": {"fingerprint": tokenizer.fingerprint}, "end_of_text": True})
    found = split_baseline([tmp_path], tokenizer)
    symbols = symbols_of(["".join(pair) for pair in pairs])
    plain, bits, at = Plain(symbols, 257, 5), 0.0, 0
    for prompt, completion in pairs:
        before, size = len(prompt.encode()), len((prompt + completion).encode()) + 1
        bits += plain.bits(symbols[: at + size], 5) - plain.bits(symbols[: at + before], 5)
        at += size
    assert found is not None
    assert found.held_out_bytes == sum(len(completion.encode()) for _, completion in pairs)
    assert found.bits_per_byte == pytest.approx(bits / found.held_out_bytes, rel=1e-9)


def test_long_text_is_read_in_part_which_is_said(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns(CACHE_NAME))
    monkeypatch.setattr(module, "TRAINING_BYTES", 128)
    found = split_baseline([folder], ByteTokenizer())
    assert found is not None
    assert found.training_bytes <= 128 < found.all_training_bytes
    large = Baseline(2.0, 32_000_000, 9_000_000_000, 4_000_000, 90_000_000)
    assert large.said(1.5) == (
        "byte 5-gram, Kneser-Ney: 2 bits a byte; the model: 1.5 (it counted 32 of 9,000 MB and was measured on 4 of 90 "
        "MB)"
    )


def test_evaluate_says_it_beside_the_model(
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JSLM_COMPILATION_CACHE", "off")
    text = tmp_path / "text.txt"
    text.write_text("The cat saw the dog. ", "utf-8")
    assert main(["--run", str(run), "--split", "val", "--text", str(text), "--json"]) == 0
    [record] = json.loads(capsys.readouterr().out)["runs"]
    expected = split_baseline([data], ByteTokenizer())
    assert expected is not None
    assert record["baselines"]["val split"] == expected.record()
    bits = record["losses"]["val split"]["bits_per_byte"]
    assert (
        f"tiny: byte 5-gram, Kneser-Ney: {expected.bits_per_byte:.4g} bits a byte; the model: {bits:.4g}" in caplog.text
    )
    assert set(record["baselines"]) == {"val split", str(text)}
    # Counting has the training text by heart.
    assert main(["--run", str(run), "--split", "train"]) == 0
    assert "5-gram" not in capsys.readouterr().out
    assert main(["--run", str(run)]) == 0
    assert f"| byte 5-gram, Kneser-Ney: bits per byte | {expected.bits_per_byte:.4f} |" in capsys.readouterr().out
