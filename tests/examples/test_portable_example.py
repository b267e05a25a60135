"""examples/portable.py reads every test vector as jslm does, with nothing but numpy."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.infer.faithful import unfaithful
from jslm.infer.sentences import split_sentences
from jslm.prompts.rewrite_words import REWRITE_WORDS
from tests.rewrite_pairs import ABBREVIATED, pairs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "portable.py"
VECTORS = sorted((ROOT / "tests" / "vectors").glob("*.json"))


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("portable_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


portable = load_example()


@pytest.fixture(scope="module", params=VECTORS, ids=lambda path: path.stem)
def vectors(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def model(vectors: dict[str, Any]) -> Any:
    return portable.Model(ROOT / "tests" / "vectors" / vectors["model"])


def test_it_needs_numpy_alone() -> None:
    tree = ast.parse(EXAMPLE.read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not froms
    assert {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names} == {"numpy"}


def test_texts_have_the_same_ids(model: Any, vectors: dict[str, Any]) -> None:
    for entry in vectors["texts"]:
        assert model.tokenizer.encode(portable.as_read(entry["text"], [])) == entry["ids"], entry["text"]


def test_logits_and_greedy_texts_are_the_same(model: Any, vectors: dict[str, Any]) -> None:
    for case in vectors["cases"]:
        assert model.prompt_ids(case["prompt"]) == case["prompt_ids"]
        most = vectors["max_new_tokens"]
        ids, text, finish, _ = model.generate(case["prompt"], most, conditions=case["conditions"])
        assert (ids, text, finish) == (case["greedy_ids"], case["greedy_text"], case["finish"])
        # All at once, where the tokens were written one by one.
        model.tell(case["conditions"])
        logits = model.read(case["prompt_ids"] + case["greedy_ids"])
        np.testing.assert_allclose(logits[case["positions"]], case["logits"], rtol=0, atol=5e-5)


def test_sentences_are_rewritten_alike(model: Any, vectors: dict[str, Any]) -> None:
    for entry in vectors.get("rewrites", []):
        found = model.rewrite(entry["source"], entry["conditions"])
        for name in ("output", "reason"):
            assert found[name] == entry[name], entry
        assert found["changed"] == (not entry["reason"])
        for name in ("confidence", "logprob"):
            assert found[name] == (None if entry[name] is None else pytest.approx(entry[name], abs=1e-3)), entry
        if found["changed"]:
            sure = model.rewrite(entry["source"], entry["conditions"], threshold=1.0)
            assert sure["output"] == entry["source"]
            # Of several sentences the reason is the first one's that might have changed.
            assert sure["confidence"] is None or sure["reason"].startswith("not sure enough: ")


def test_words_are_checked_alike(model: Any, vectors: dict[str, Any]) -> None:
    for entry in vectors.get("differences", []):
        found = model.words.difference(entry["source"], entry["output"], entry["may_add"])
        assert found == entry["difference"], entry


def test_natural_sentences_are_checked_as_by_jslm() -> None:
    words = portable.Words(dict(REWRITE_WORDS))
    reasons = [(unfaithful(*pair), words.difference(*pair), pair) for pair in pairs()]
    assert len({reason.split("'")[-1] for reason, _, _ in reasons}) >= 6
    assert [each for each in reasons if each[0] != each[1]] == []


def test_abbreviations_end_no_sentence() -> None:
    for text, parts in ABBREVIATED.items():
        assert split_sentences(text) == parts
        assert portable.split_sentences(text) == parts


def test_temperature_draws_by_the_models_shares(vectors: dict[str, Any], model: Any) -> None:
    prompt = vectors["cases"][0]["prompt"]
    model.tell({})
    logits = model.read(model.prompt_ids(prompt))[-1].astype(np.float64) / 0.7
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    first = [model.generate(prompt, 1, temperature=0.7, seed=seed)[0] for seed in range(300)]
    drawn = np.bincount([ids[0] if ids else model.tokenizer.end for ids in first], minlength=len(shares)) / len(first)
    assert np.abs(drawn - shares).max() < 4 * np.sqrt(0.25 / len(first))
    assert model.generate(prompt, 8, temperature=0.7, seed=3) == model.generate(prompt, 8, temperature=0.7, seed=3)


def test_its_command_line_rewrites_and_writes_on() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, str(EXAMPLE), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    folder = ROOT / "tests" / "vectors"
    sentence = "The letter was written by the clerk."
    rewriter = str(folder / "rewriter.safetensors")
    assert run(rewriter, sentence, "--rewrite") == "The clerk wrote the letter.\n"
    checked = str(folder / "rewriter_int8.safetensors")
    command = [sys.executable, str(EXAMPLE), checked, "The king saw.", "--rewrite", "--threshold", "0"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout == "The king saw.\n"
    assert found.stderr.startswith("left as it is: the rewrite says something else: ")
    assert run(rewriter, sentence, "--rewrite", "--condition", "style=casual") == "the clerk wrote the letter\n"
    case = json.loads((folder / "char_llama.json").read_text("utf-8"))["cases"][1]
    shown = run(str(folder / "char_llama.safetensors"), case["prompt"], "--tokens", str(len(case["greedy_ids"])))
    assert shown == case["prompt"] + case["greedy_text"] + "\n"


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    good = (ROOT / "tests" / "vectors" / "rewriter_int8.safetensors").read_bytes()
    path = tmp_path / "bad.safetensors"
    for data in (b"", good[:100], good[:-1], good.replace(b"int8_rows", b"int4_rows")):
        path.write_bytes(data)
        found = subprocess.run([sys.executable, str(EXAMPLE), str(path), "The"], capture_output=True, text=True)
        assert found.returncode == 2
        assert len([line for line in found.stderr.splitlines() if "error:" in line]) == 1
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("template", "prompt_end", "prompt"),
    [
        ("", "", "S\n"),
        ("", "\t", "S\t"),
        ("{prompt}\t{completion}", "\t", "S\t"),
        ("Fix: {prompt}\n=> {completion}", "", "Fix: S\n=> "),
        ("{{{prompt}}} -> {completion}", "->", "{S} ->"),
    ],
)
def test_prompts_of_rewriting_are_jslms(template: str, prompt_end: str, prompt: str) -> None:
    from jslm.config import DataConfig
    from jslm.infer import rewrite_prompt

    assert portable.rewrite_prompt({"template": template, "prompt_end": prompt_end}, "S") == prompt
    assert rewrite_prompt(DataConfig(template=template, prompt_end=prompt_end), "S") == prompt
