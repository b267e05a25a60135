from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.evaluate.choices import Likelihood, answer_questions, encode_pair, likelihoods
from jslm.evaluate.plan import plan_tasks
from jslm.evaluate.questions import BENCHMARKS, Question, read_questions
from jslm.infer import LanguageModel
from jslm.tokenizer import BpeTokenizer, ByteTokenizer

BLIMP = {"sentence_good": "A cat runs.", "sentence_bad": "A cat run.", "UID": "agreement"}
HELLASWAG = {
    "activity_label": "Roof", "ctx_a": "A man [header] sits.", "ctx_b": "he [step]", "label": "1",
    "endings": ["is  up [title] high.", "[sub] starts."],
}  # fmt: skip
ARC = {
    "question": {"stem": "Which?", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]},
    "answerKey": "B",
}
ARC_FLAT = {"question": "Which?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "2"}
PIQA = {"goal": "Boil", "sol1": "heat it", "sol2": "eat it", "label": 0}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "record", "expected"),
    [
        ("blimp", BLIMP, Question("", ("A cat runs.", "A cat run."), 0, "agreement")),
        ("hellaswag", HELLASWAG, Question("Roof: A man sits. He ", (" is up. high.", "  starts."), 1)),
        ("arc", ARC, Question("Question: Which?\nAnswer:", (" one", " two"), 1)),
        ("arc", ARC_FLAT, Question("Question: Which?\nAnswer:", (" one", " two"), 1)),
        ("piqa", PIQA, Question("Question: Boil\nAnswer:", (" heat it", " eat it"), 0)),
        ("lambada", {"text": "he saw a cat\n"}, Question("he saw a", (" cat",), 0, cloze=True)),
    ],
)
def test_formats(tmp_path: Path, name: str, record: dict[str, Any], expected: Question) -> None:
    assert read_questions(name, write(tmp_path / "x.jsonl", record)) == [expected]


def test_lambada_as_text_and_piqa_with_labels_beside(tmp_path: Path) -> None:
    (tmp_path / "lambada.txt").write_text("one two three\n\n four five\n", "utf-8")
    found = read_questions("lambada", tmp_path / "lambada.txt")
    assert [(q.context, q.choices) for q in found] == [("one two", (" three",)), (" four", (" five",))]
    bare = {key: value for key, value in PIQA.items() if key != "label"}
    write(tmp_path / "valid.jsonl", bare, bare)
    (tmp_path / "valid-labels.lst").write_text("1\n0\n", "utf-8")
    assert [q.answer for q in read_questions("piqa", tmp_path / "valid.jsonl")] == [1, 0]


def test_real_files(assets: Path) -> None:
    sizes = {}
    for name in ("blimp", "hellaswag", "lambada"):
        questions, *_ = plan_tasks([name], assets / "eval")
        sizes[name] = len(questions[name])
        assert all(q.context or name == "blimp" for q in questions[name])
    assert sizes == {"blimp": 1800, "hellaswag": 200, "lambada": 2000}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "blimp",
            '{"sentence_good": "x"}',
            "line 2: no 'sentence_bad' among 'sentence_good'; expected 'sentence_good'",
        ),
        ("blimp", '{"sentence_good": "x", "sentence_bad": " "}', "line 2: sentence_bad = ' '; expected text"),
        ("blimp", "{", "line 2: not JSON"),
        ("blimp", "[1]", "line 2: list; expected an object with 'sentence_good', 'sentence_bad'"),
        ("hellaswag", json.dumps(HELLASWAG | {"label": 2}), "line 2: label = 2; expected a number from 0 to 1"),
        ("hellaswag", json.dumps(HELLASWAG | {"endings": ["x"]}), "line 2: endings = ['x']; expected a list of two"),
        ("arc", json.dumps(ARC | {"answerKey": "C"}), "line 2: answerKey = 'C'; expected one of 'A', 'B'"),
        ("arc", json.dumps(ARC_FLAT | {"choices": 1}), "line 2: expected a question and choices with 'text'"),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b"}', "line 2: no 'label', and no line for it in"),
        ("lambada", '{"text": "word"}', "line 2: 'word' is one word; expected a passage whose last word"),
    ],
)
def test_bad_lines(tmp_path: Path, name: str, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"\n{line}\n", "utf-8")
    with pytest.raises(JslmError, match=re.escape(f"x.jsonl: {message}")):
        read_questions(name, path)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_empty_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.jsonl").write_text("\n", "utf-8")
    with pytest.raises(JslmError, match=rf"x\.jsonl: empty; expected the questions of {name}, one a line"):
        read_questions(name, tmp_path / "x.jsonl")


def test_tasks_by_name_file_folder_and_pattern(tmp_path: Path) -> None:
    for name in ("blimp_a.jsonl", "blimp_b.jsonl"):
        write(tmp_path / name, {key: BLIMP[key] for key in ("sentence_good", "sentence_bad")}, BLIMP)
    pairs = write(tmp_path / "rewrite_x.jsonl", {"prompt": "a", "completion": "b"})
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (the extra eval)")
    questions, files, _, drawing = plan_tasks(["blimp,samples", "rewrite"], tmp_path)
    assert [q.group for q in questions["blimp"]] == ["a", "agreement", "b", "agreement"]
    assert list(files) == [str(pairs)]
    assert [(pair.prompt, pair.completion) for pair in files[str(pairs)]] == [("a", "b")]
    assert drawing == {"samples"}
    for place in (tmp_path / "blimp_b.jsonl", tmp_path / "*_b.jsonl"):
        questions, *_ = plan_tasks([f"blimp={place}"], "nowhere", limit=1)
        assert [q.group for q in questions["blimp"]] == ["b"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "blimps",
            r"--tasks 'blimps': no such task; did you mean blimp\? There are blimp, lambada, hellaswag, arc, piqa",
        ),
        ("", "--tasks '': no such task There are blimp"),
        ("arc", r"--tasks arc: .*: expected a file \[aA\].* in it; nothing is downloaded"),
        ("arc=no/such.jsonl", r"--tasks arc=no/such.jsonl: no/such.jsonl: expected a file, a folder or a pattern"),
        ("samples=x", "--tasks samples=x: samples reads no file"),
    ],
)
def test_bad_tasks(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(JslmError, match=message):
        plan_tasks([task], tmp_path)


def naive_likelihood(model: LanguageModel, ids: list[int], first: int) -> Likelihood:
    ids, first = ids[-33:], first - max(0, len(ids) - 33)
    logits = model.logits(ids[:-1])[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(first - 1, len(ids) - 1)
    greedy = all(int(logits[place].argmax()) == ids[place + 1] for place in places)
    return Likelihood(float(sum(logprobs[place, ids[place + 1]] for place in places)), len(places), greedy)


def test_likelihoods_as_one_by_one(model: LanguageModel) -> None:
    choice = np.random.default_rng(1)
    words = ["cat", "dog", "the", "saw", "café"]
    pairs = []
    for _ in range(30):
        text = [" ".join(choice.choice(words, size=size)) for size in choice.integers(1, 9, 2)]
        pairs.append((text[0] if choice.random() < 0.8 else "", f" {text[1][:20]}"))
    # What greedy decoding writes must be told to be so.
    logits = model.logits([model.tokenizer.bos_id, *b"the"])[0, -1]
    pairs.append(("the", bytes([int(logits[:128].argmax())]).decode()))
    found = likelihoods(model, pairs, batch_tokens=256)
    for (context, continuation), likelihood in zip(pairs, found, strict=True):
        expected = naive_likelihood(model, [256, *context.encode(), *continuation.encode()], len(context.encode()) + 1)
        assert likelihood.logprob == pytest.approx(expected.logprob, abs=1e-3)
        assert (likelihood.tokens, likelihood.greedy) == (expected.tokens, expected.greedy)
    assert found[-1].greedy == bool(logits.argmax() == logits[:128].argmax())


def test_pairs_are_encoded_as_one_text(make_model: Callable[..., LanguageModel]) -> None:
    tokenizer = BpeTokenizer.train(["the cat sat on the mat " * 50], 300)
    model = make_model(tokenizer)
    for context, continuation in (("the cat", " sat"), ("the cat ", "sat"), ("the ca", "t sat"), ("", "the cat")):
        ids, first = encode_pair(model, context, continuation)
        assert ids == [tokenizer.bos_id, *tokenizer.encode(context + continuation)]
        added = tokenizer.decode(ids[first:])
        assert added.endswith(continuation)
        assert (context + continuation).endswith(added)
    assert encode_pair(model, "the cat", " sat")[1] == 1 + len(tokenizer.encode("the cat"))
    no_start = make_model(ByteTokenizer(), ends_documents=False)
    assert encode_pair(no_start, "a", "b") == ([97, 98], 1)
    assert encode_pair(no_start, "", "b") == ([10, 98], 1)
    with pytest.raises(JslmError, match="nothing to score after 'abc'"):
        encode_pair(model, "abc", "")


def test_figures_of_choices(model: LanguageModel) -> None:
    questions = [
        Question("", (text, text + longer), 0, group)
        for text, longer, group in (("cat", " and dog", "a"), ("dog", "!", "a"), ("mat", " x", "b"))
    ] + [Question("the cat", (" sat on a mat", " sat", " s"), 1, "b"), Question("", ("same", "same"), 0, "b")]
    found = answer_questions(model, questions)
    # Less text is always more probable, so that sums choose the shortest, and a tie counts as wrong.
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["stderr"] == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert found["chance"] == pytest.approx((4 * 1 / 2 + 1 / 3) / 5)
    assert {name: part["accuracy"] for name, part in found["groups"].items()} == {"a": 1.0, "b": pytest.approx(1 / 3)}
    right = 0
    for question in questions:
        scores = [
            naive_likelihood(model, *encode_pair(model, question.context, choice)).logprob / len(choice.strip())
            for choice in question.choices
        ]
        right += scores[question.answer] > max(s for i, s in enumerate(scores) if i != question.answer)
    assert found["accuracy_normalized"] == pytest.approx(right / 5)


def test_figures_of_the_last_word(model: LanguageModel) -> None:
    written = model.generate("the cat", greedy=True, max_new_tokens=1)
    assert isinstance(written, str)
    questions = [Question("the cat", (" sat",), 0, cloze=True), Question("the", (" dog",), 0, cloze=True)]
    found = answer_questions(model, questions)
    nats = -sum(naive_likelihood(model, *encode_pair(model, q.context, q.choices[0])).logprob for q in questions)
    assert found["perplexity"] == pytest.approx(math.exp(nats / 2), rel=1e-3)
    assert found["accuracy"] == 0.0
    assert "chance" not in found
