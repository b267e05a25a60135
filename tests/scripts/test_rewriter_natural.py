"""The recipe of the natural rewriter, as far as it needs no training."""

from __future__ import annotations

import importlib.util
import re
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jslm.config import load_config
from jslm.evaluate.answers import Item

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rewriter_natural", ROOT / "scripts" / "rewriter_natural.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_passives_without_an_agent_get_the_label(script: ModuleType) -> None:
    given = [{"prompt": f"It was sold {n}.", "completion": f"Someone sold it {n}."} for n in range(200)]
    given += [{"prompt": "It was sold by someone.", "completion": "Someone sold it."}]
    pairs = list(script.label_agentless(given, keep=True))
    labelled = [pair for pair in pairs if pair["agentless"]]
    assert len(labelled) == 200
    stays = [pair for pair in pairs if pair["prompt"] == pair["completion"]]
    assert 60 < len(stays) < 140
    assert not any(pair["agentless"] for pair in stays)
    assert pairs[-1]["agentless"] == ""
    assert len(list(script.label_agentless(given, keep=False))) == 201
    measured = list(script.unasked(given))
    assert [pair["completion"] for pair in measured] == [pair["prompt"] for pair in given[:200]] + ["Someone sold it."]


def test_a_by_that_names_nobody_is_on_both_sides(script: ModuleType) -> None:
    turned = {"prompt": "A key was sold by Ann.", "completion": "Ann sold a key.", "agentless": ""}
    asked = {"prompt": "A key was sold.", "completion": "Someone sold a key.", "agentless": "someone"}
    stays = {"prompt": "A key was sold.", "completion": "A key was sold.", "agentless": ""}
    question = {"prompt": "Was it sold by Ann?", "completion": "Did Ann sell it?", "agentless": ""}
    agent = {"prompt": "It was sold by Ann.", "completion": "It was sold by Ann.", "agentless": ""}
    given = [turned, asked, stays, question, agent] * 400
    made = list(script.with_other_by(given))
    assert made[1::5] == given[1::5]
    assert made[3::5] == given[3::5]
    assert made[4::5] == given[4::5]
    other = [pair for pair in made[2::5] if pair != stays]
    assert 150 < len(other) < 250
    assert all(pair["prompt"] == pair["completion"] for pair in other)
    assert all(re.search(r"(?i)\b(?:by|one by one)\b", pair["prompt"]) for pair in other)
    both = [pair for pair in made[0::5] if pair != turned]
    assert 15 < len(both) < 60
    for pair in both:
        begins = re.fullmatch(r"(.*?)[Aa] key was sold by Ann(.*)\.", pair["prompt"])
        assert begins is not None
        assert pair["completion"] == f"{begins[1]}Ann sold a key{begins[2]}."


def test_plain_text_begins_with_the_alphabet(script: ModuleType, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("One line\nof two.\n\nAnother paragraph.\n", "utf-8")
    voices = ROOT / "tests" / "corpora" / "data" / "voices.conllu"
    arguments = type("Arguments", (), {"text": [str(text)], "parsed": [str(voices)]})
    first, *rest = script.plain_texts(arguments)
    assert {"é", "“", "ж", "\t"} <= set(first)
    assert rest[:2] == ["One line of two.", "Another paragraph."]
    assert rest[2].startswith("The letter was written by the clerk.\n")


def test_both_parts_have_their_minutes(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "natural").mkdir()
    asked: list[tuple[str, ...]] = []
    arguments = type("Arguments", (), {"minutes": 10.0, "parsed": ["x.conllu"], "text": [], "licence": "cc-by-sa-4.0"})
    for pretraining in (True, False):
        script.train(tmp_path, script.SMALL, lambda *a: asked.append(a), arguments, pretraining=pretraining)
    # At first of half the context, with the dial's rate.
    share = script.PRETRAINING_SHARE
    minutes = [f"train.minutes={10 * part:g}" for part in (share, 1 - share)]
    first = {minutes[0], "model.context_length=320", "optimizer.muon_learning_rate=0.0082"}
    assert first <= set(asked[0])
    assert asked[1].count(minutes[1]) == 1
    assert not first & set(asked[1])
    assert "card.license=cc-by-sa-4.0" in asked[1]
    assert any("x.conllu" in str(part) for part in asked[1])
    both = ((script.TEXT_CONFIG, asked[0][3:]), (script.PAIRS_CONFIG, asked[1][3:]))
    trained = [load_config(config, list(map(str, overrides))).train.minutes for config, overrides in both]
    assert sum(trained) == pytest.approx(10)
    assert trained == pytest.approx([10 * share, 10 * (1 - share)])

    # The configs alone have what the script gives the larger model.
    text = load_config(script.TEXT_CONFIG)
    assert f"optimizer.muon_learning_rate={text.optimizer.muon_learning_rate}" in script.pretraining_size([])


def test_confidence_is_of_the_passives_that_people_wrote(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["by rule"] * 120 + ["natural"] * 900 + ["unchanged"] * 80
    items = [Item(kind, f"It was seen by them {n}.", ("They saw it.",), False) for n, kind in enumerate(kinds)]
    assert Counter(item.register for item in script.asked_of(list(items))) == {"by rule": 120, "unchanged": 80}
    assert capsys.readouterr().out == ""
    assert len(script.asked_of(items[30:])) == 1070
    assert "90 held-out passives, under 100" in capsys.readouterr().out


def test_without_a_held_out_sentence_the_model_is_there(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held_out.jsonl").write_text("", "utf-8")
    raw, target = ROOT / "tests" / "vectors" / "rewriter.safetensors", tmp_path / "rewriter.safetensors"
    script.calibrate_file(raw, target, tmp_path / "held_out.jsonl", Namespace(precision=0.8, left_alone=0.95))
    assert "no sentence to rewrite" in capsys.readouterr().err
    assert target.exists()
    assert (tmp_path / "rewriter_int8.safetensors").exists()


def test_a_bad_line_of_public_pairs_is_named(rewriter: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("He saw it . passiv\tIt was seen .\nno tab\n", "utf-8")
    with pytest.raises(SystemExit, match=r"pairs\.txt: line 2: 'no tab'; expected"):
        rewriter.public_pairs(path)


@pytest.fixture
def rewriter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("rewriter", ROOT / "scripts" / "rewriter.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bad_arguments_are_told(
    rewriter: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, message in (
        (["--parsed", "nowhere.conllu"], "nowhere.conllu: no such file"),
        (["--parsed", __file__, "--minutes", "0"], "--minutes 0"),
    ):
        monkeypatch.setattr(sys, "argv", ["rewriter.py", *arguments])
        with pytest.raises(SystemExit):
            rewriter.main()
        assert message in capsys.readouterr().err


def test_arguments_may_change_until_something_is_made(
    rewriter: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pairs(args: Any, stages: Any, *others: Any) -> None:
        sys.exit(2)

    monkeypatch.setattr(rewriter.rewriter_natural, "run", no_pairs)
    given = ["rewriter.py", "--text", __file__, "--out", str(tmp_path)]
    for arguments in (given, [*given, "--pipeline", "another"]):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit):
            rewriter.main()
        assert capsys.readouterr().err == ""
    (tmp_path / "stages.json").write_text('{"pairs": {"wall_s": 1.0}}', "utf-8")
    with pytest.raises(SystemExit):
        rewriter.main()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "argv", [*given, "--minutes", "3", "optimizer.beta1=0.5"])
    with pytest.raises(SystemExit):
        rewriter.main()
    assert "made with another section.key=value, --pipeline, --minutes; choose" in capsys.readouterr().err
    (tmp_path / "asked.json").unlink()
    with pytest.raises(SystemExit):
        rewriter.main()
    assert "asked.json: is missing, and says what this folder was made with; choose" in capsys.readouterr().err
