from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.config import config_from_dict
from jslm.errors import JslmError
from jslm.evaluate.rewriting import (
    RewritePair,
    _prompt,
    compare_rewrites,
    edit_distance,
    read_pairs,
    rewrite_quality,
)
from jslm.evaluate.samples import distinct, repetition, sample_quality
from jslm.infer import LanguageModel
from jslm.tokens.token_file import open_tokens


def naive_distance(a: str, b: str) -> int:
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
        rows.append(row)
    return rows[-1][-1]


@given(st.text("abé🙂", max_size=12), st.text("abé🙂", max_size=12))
def test_edit_distance_as_the_table(a: str, b: str) -> None:
    assert edit_distance(a, b) == naive_distance(a, b)


def test_figures_by_category() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (the extra eval)")
    pairs = [
        RewritePair("p1", "The cat saw me.", "simple"),
        RewritePair("p2", "The dog saw me.", "simple"),
        RewritePair("p3", "Who ran?", "wh"),
    ]
    found = ["The cat saw me.", "The dog sees me.", "Who"]
    record = compare_rewrites(pairs, found)
    assert record["exact_match"] == pytest.approx(1 / 3)
    assert record["edit_distance"] == pytest.approx((0 + 3 + 5) / 3)
    assert record["error_rate"] == pytest.approx(8 / (15 + 15 + 8))
    assert record["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, [[p.completion for p in pairs]]).score)
    assert record["categories"]["simple"]["exact_match"] == 0.5
    assert record["categories"]["wh"] == {
        "items": 1, "exact_match": 0.0, "edit_distance": 5.0, "error_rate": 5 / 8,
        "chrf": pytest.approx(sacrebleu.corpus_chrf(["Who"], [["Who ran?"]]).score),
    }  # fmt: skip
    assert [(m["prompt"], m["found"]) for m in record["mistakes"]] == [("p2", "The dog sees me."), ("p3", "Who")]


def test_completions_are_what_greedy_decoding_writes(model: LanguageModel) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (the extra eval)")
    written = model.generate("abc\n", greedy=True, max_new_tokens=18)
    assert isinstance(written, str)
    record = rewrite_quality(model, [RewritePair("abc", "x", ""), RewritePair("abc", "y", "")])
    assert record["mistakes"][0]["found"] == written.strip()
    assert "categories" not in record


@pytest.mark.parametrize(
    ("template", "prompt_end", "expected"),
    [
        ("", "", "hi\n"),
        ("", "\t", "hi\t"),
        ("{style}: {prompt}\t{completion}", "\t", "plain: hi\t"),
        ("{{{prompt}}} => {completion}.", "", "{hi} => "),
        ("{prompt}\t[{completion}]", "\t", "hi\t"),
    ],
)
def test_prompts_are_shown_as_in_training(template: str, prompt_end: str, expected: str) -> None:
    packing = {"packing": "documents"} if prompt_end else {}
    data = config_from_dict({"data": {"template": template, "prompt_end": prompt_end, **packing}}, "test").data
    assert _prompt(data, RewritePair("hi", "ho", "", {"style": "plain"})) == expected
    if "style" in template:
        with pytest.raises(JslmError, match=r"data\.template has \{style\}, but the pair 'hi' has only prompt; add it"):
            _prompt(data, RewritePair("hi", "ho"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "a", "completion": "b"}', '{"prompt": "a"}'], "line 2: no 'completion' among 'prompt'; expected"),
        (['{"prompt": "", "completion": "b"}'], "line 1: prompt = ''; expected text"),
        (['{"prompt": "a", "completion": "b", "category": 3}'], "line 1: category = 3; expected text"),
        ([], "empty; expected lines with 'prompt', 'completion' and 'category'"),
    ],
)
def test_bad_pairs(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(JslmError, match=rf"pairs\.jsonl: {message}"):
        read_pairs(path)


def test_pairs_of_the_generator(tmp_path: Path) -> None:
    from jslm.corpora.rewrite import generate_pairs

    made = list(generate_pairs(20, seed=3))
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(pair.record()) for pair in made), "utf-8")
    assert read_pairs(tmp_path / "x.jsonl") == [RewritePair(p.source, p.target, p.category, p.record()) for p in made]


def test_distinct_and_repetition() -> None:
    words = ["a", "b", "a", "b", "a"]
    assert [distinct([words, ["a"]], order) for order in (1, 2, 3, 5, 6)] == [2 / 6, 2 / 4, 2 / 3, 1.0, 0.0]
    assert repetition(words, 2) == 0.5
    assert repetition(["a", "b", "c", "d", "e"]) == 0.0
    assert repetition(["a"] * 14) == pytest.approx(10 / 11)
    assert repetition([]) == 0.0


def test_sample_quality(make_model: Callable[..., LanguageModel], data: Path) -> None:
    model = make_model(never_ends=True)
    training, held_out = open_tokens(data, "train"), open_tokens(data, "val")
    record = sample_quality(model, 2, seed=2, training=training, held_out=held_out)
    results = model.generate_results("", num_samples=2, seed=2)
    assert record["mean_tokens"] == sum(len(result.tokens) for result in results) / 2
    assert record["ended"] == sum(result.finish_reason == "stop" for result in results) / 2
    # Noise has no eight bytes of the training text in a row; the held-out text begins with "The dog saw the cat in".
    assert record["copies"]["longest_tokens"] == 0
    assert record["copies"]["held_out"]["longest_tokens"] == len("he dog saw the cat")
    assert "copies" not in sample_quality(model, 1)
