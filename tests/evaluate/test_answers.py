"""Rewriting measured on sentences with all their answers, and what confidence is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from jslm.config import RewriteConfig, config_from_dict
from jslm.errors import JslmError
from jslm.evaluate import calibration
from jslm.evaluate.answers import Found, Item, compare_answers, is_acceptable, read_items, wilson
from jslm.evaluate.calibration import Judged, agreement_gain, calibrate, choose_threshold, fit_logistic
from jslm.evaluate.curves import curves
from jslm.evaluate.lints import count_lints, make_checker
from jslm.evaluate.report import markdown
from jslm.infer.judgement import confidence_of
from jslm.infer.rewrite import Written

# Of 200 answers, one: a post without capitals, which Harper minds before "my" and not before "I".
MOST_ADDED = 1
ITEMS = [
    Item("news", "The cat was fed by Ann.", ("Ann fed the cat.",), False),
    Item("news", "It was eaten by the dog.", ("The dog ate it.", "The dog has eaten it."), False),
    Item("web", "The shop is closed.", ("Someone closed the shop.", "The shop is closed."), True),
    Item("web", "I slept.", ("I slept.",), True),
    Item("web", "He was seen by Bob.", ("Bob saw him.",), False),
]
FOUND = [
    Found("Ann fed the cat.", 0.9, True, ""),
    Found("the dog ate it", 0.8, True, ""),
    Found("Someone closed the shop.", 0.7, True, ""),
    Found("I slept well.", 0.6, True, "'well' is not in the sentence"),
    Found("He was seen by Bob.", 0.99, False, ""),
]


def shares(record: dict[str, Any]) -> dict[str, float]:
    names = ("exact", "acceptable", "left_wrongly", "left_rightly", "precision", "unfaithful", "unfaithful_written")
    return {name: round(record[name]["value"], 3) for name in names if record.get(name)}


def test_figures_of_what_was_found() -> None:
    record = compare_answers(ITEMS, FOUND, RewriteConfig())
    assert shares(record) == {
        "exact": 0.333,
        "acceptable": 0.667,
        "left_wrongly": 0.333,
        "left_rightly": 0.5,
        "precision": 0.75,
        "unfaithful": 0.25,
        "unfaithful_written": 0.25,
    }
    assert [record[key] for key in ("items", "to_change", "to_leave", "changed")] == [5, 3, 2, 4]
    assert record["registers"]["news"]["acceptable"]["value"] == 1
    assert set(record["lengths"]) == {"up to 60 characters"}
    # A third of the three to change is answered by the first, two thirds by two.
    assert [(point["coverage"], point["precision"]) for point in record["curve"]] == [
        (share / 10, 1.0) for share in range(1, 7)
    ]
    assert {mistake["prompt"] for mistake in record["mistakes"]} == {"I slept.", "He was seen by Bob."}


def test_check_and_threshold_keep_sentences() -> None:
    record = compare_answers(ITEMS, FOUND, RewriteConfig(faithful=True))
    assert shares(record)["unfaithful"] == 0
    assert shares(record)["unfaithful_written"] == 0.25
    assert shares(record)["left_rightly"] == 1
    record = compare_answers(ITEMS, FOUND, RewriteConfig(threshold=0.85))
    assert record["changed"] == 1
    assert shares(record)["left_wrongly"] == 0.667
    assert "unfaithful" not in shares(compare_answers(ITEMS, FOUND, RewriteConfig(threshold=1.0)))


def test_report_shows_them() -> None:
    run: dict[str, Any] = {
        "name": "one",
        "source": "one",
        "parameters": 1,
        "context_length": 1,
        "tokenizer": {"kind": "char", "vocab_size": 3, "fingerprint": "f"},
        "dtype": "float32",
        "losses": {},
        "tasks": {},
        "answers": {"natural.tsv": compare_answers(ITEMS, FOUND, RewriteConfig()) | {"lints": count_lints([], None)}},
    }
    text = markdown({"jslm": "0", "date": "today", "device": "none", "runs": [run]})
    assert "| acceptable (punctuation and case aside) | 66.7% ± " in text
    # Two of two, and so the interval of Wilson goes down to 34%.
    assert "| precision at 60% coverage | 100.0% ± 32.9 |" in text
    assert "| coverage without a threshold | 66.7% ± " in text
    assert "No lints were counted: Harper is not installed" in text
    run["answers"]["natural.tsv"]["lints"] = count_lints(
        [("He go.", "He goes.")], lambda text: [("Agreement", "")] * ("go." in text)
    )
    text = markdown({"jslm": "0", "date": "today", "device": "none", "runs": [run]})
    assert "| rewrites with a lint that is new | 0 |" in text
    assert "| lints of the sentences that changed, before | 1 |" in text
    assert "I slept well." in text
    drawing = ElementTree.fromstring(curves([run]))
    assert len(drawing.findall(".//{*}circle")) == 6 + 4
    assert curves([{**run, "answers": {}}]) == ""


def test_natural_answers_add_no_lint() -> None:
    """The table's own answers, as Harper reads them: it finds what is wrong, and nothing that is not there before."""
    pytest.importorskip("harper", reason="harper-py is not installed")
    check = make_checker()
    assert check is not None
    wrong = count_lints([("He went to the shop.", "He go to the the shop."), ("He go.", "He goes.")], check)
    assert (wrong["added"], wrong["removed"]) == (1, 1)
    assert wrong["examples"][0]["lint"].startswith(("Agreement: ", "Repetition: "))
    items = read_items(Path(__file__).parents[2] / "data" / "rewrite" / "natural.tsv")
    record = count_lints([(item.sentence, item.answers[0]) for item in items if not item.alone], check)
    assert record["rewrites"] == 200
    assert record["added"] <= MOST_ADDED, record["examples"]


def test_punctuation_and_case_are_not_the_answer() -> None:
    item = Item("", "x", ("“Don’t,” said Zoë.",), False)
    assert is_acceptable(item, '"don\'t" said Zoë')
    assert not is_acceptable(item, "“Do,” said Zoë.")


def test_files_of_items(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    table.write_text("register\tsentence\tanswers\nweb\tIt is.\t= | That is.\nnews\tA.\tB. | C.\n", "utf-8")
    assert read_items(table) == [
        Item("web", "It is.", ("That is.", "It is."), True),
        Item("news", "A.", ("B.", "C."), False),
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"prompt": "A.", "completion": "B.", "answers": ["C."], "register": "news"}\n', "utf-8")
    assert read_items(lines) == [Item("news", "A.", ("B.", "C."), False)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "topic\tpassive\n", "line 1: 'topic"),
        ("a.tsv", "register\tsentence\tanswers\nweb\tA.\n", "line 2: 2 cells"),
        ("a.tsv", "register\tsentence\tanswers\n", "no sentence to rewrite"),
        ("a.jsonl", '{"prompt": "A.", "completion": "B.", "answers": "C."}\n', "answers = 'C.'"),
        ("a.conllu", "1\tx\n", "2 columns"),
    ],
)
def test_bad_files_are_told(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(JslmError, match=message):
        read_items(path)


def test_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_logistic_regression_finds_its_weights() -> None:
    noise = np.random.default_rng(0)
    x = np.stack([np.ones(4000), noise.normal(size=4000), noise.normal(size=4000)], 1)
    weights = np.array([-0.5, 2.0, 0.0])
    right = (noise.random(4000) < 1 / (1 + np.exp(-x @ weights))).astype(np.float64)
    assert fit_logistic(x, right) == pytest.approx(weights, abs=0.2)


def test_threshold_reaches_the_precision() -> None:
    sure = [0.9, 0.8, 0.7, 0.6, 0.6]
    assert choose_threshold(sure, [True, True, False, True, False], 0.7) == pytest.approx(0.8)
    assert choose_threshold(sure, [True, True, False, True, True], 0.7) == pytest.approx(0.6)
    assert choose_threshold(sure, [False] * 5, 0.7) == 1.0


def test_threshold_spares_what_is_to_stay() -> None:
    sure, right, spoilt = [0.9, 0.8, 0.7, 0.6], [True, False, True, True], [False, True, False, False]
    assert choose_threshold(sure, right, 0.7, spoilt, 1) == pytest.approx(0.6)
    assert choose_threshold(sure, right, 0.7, spoilt, 0) == pytest.approx(0.9)


def test_calibration_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1)
    items, texts = [], []
    for number in range(200):
        right = noise.random() < 0.6
        items.append(Item("web", f"A{number} was seen by Bob.", (f"Bob saw A{number}.",), False))
        logprob = float(-abs(noise.normal()) * (0.05 if right else 0.5))
        texts.append(Written(f"Bob saw A{number}." if right else f"Bob saw B{number}.", True, [logprob] * 20))
    given = iter(texts)

    class Model:
        config = config_from_dict({}, "test")

    monkeypatch.setattr(calibration, "written", lambda model, batch, beams: [next(given) for _ in batch])
    fitted = calibrate(Model(), items, 0.9)  # type: ignore[arg-type]
    assert fitted.precision == 0.9
    found = [Found(one.output, confidence_of(fitted, one.logprobs) or 0.0, True, "") for one in texts]
    record = compare_answers(items, found, fitted)
    assert record["precision"]["value"] >= 0.9
    assert record["changed"] > 60
    for part in record["reliability"]:
        assert part["confidence"] == pytest.approx(part["right"], abs=0.15)
    # A tenth of the rewrites is of sentences that were to stay; half of these are to.
    for number in range(0, 200, 10):
        items[number] = items[number]._replace(answers=(items[number].sentence,), alone=True)
    thresholds = []
    for share in (0.0, 0.5):
        given = iter(texts)
        sparing = calibrate(Model(), items, 0.6, left_alone=share)  # type: ignore[arg-type]
        thresholds.append(sparing.threshold)
        stay = [confidence_of(sparing, one.logprobs) or 0.0 for one in texts[::10]]
        assert sum(one >= sparing.threshold for one in stay) <= 20 * (1 - share)
    assert thresholds[0] < thresholds[1]
    with pytest.raises(JslmError, match="left_alone = 1"):
        calibrate(Model(), items, 0.9, left_alone=1)  # type: ignore[arg-type]
    with pytest.raises(JslmError, match="expected 20 or more"):
        calibrate(Model(), items[:0], 0.9)  # type: ignore[arg-type]
    with pytest.raises(JslmError, match="beams = 0"):
        calibrate(Model(), items, 0.9, beams=0)  # type: ignore[arg-type]
    with pytest.raises(JslmError, match="precision = 1"):
        calibrate(Model(), items, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("tells", [True, False])
def test_agreement_is_taken_only_where_it_tells_something(
    tells: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log-probabilities that say little, and beams that say much or nothing."""
    noise = np.random.default_rng(2)
    items, texts = [], []
    for number in range(300):
        right = bool(noise.random() < 0.5)
        items.append(Item("web", f"A{number} was seen by Bob.", (f"Bob saw A{number}.",), False))
        agreement = float(noise.normal() + (2.0 if right else -2.0) * tells)
        output = f"Bob saw A{number}." if right else f"Bob saw B{number}."
        texts.append(Written(output, True, [float(-abs(noise.normal()))] * 20, agreement))

    class Model:
        config = config_from_dict({}, "test")

    places = {item.sentence: text for item, text in zip(items, texts, strict=True)}
    monkeypatch.setattr(calibration, "written", lambda model, batch, beams: [places[sentence] for sentence in batch])
    with caplog.at_level("INFO", "jslm"):
        fitted = calibrate(Model(), items, 0.9, beams=4)  # type: ignore[arg-type]
    assert ("taken" if tells else "left out") in caplog.text
    assert fitted.agreement.beams == (4 if tells else 0)
    assert len(fitted.calibration) == 4
    judged = Judged(
        [text.logprobs for text in texts],
        [text.agreement for text in texts],
        [item.answers[0] == text.output for item, text in zip(items, texts, strict=True)],
        [False] * len(texts),
    )
    gain = agreement_gain(judged)
    assert gain.is_one == tells
    assert gain.log_loss[0] == pytest.approx(np.log(2), abs=0.03)
    if tells:
        # Two normals, four apart: a Brier score of a few hundredths.
        assert gain.brier[1] < 0.1 < gain.brier[0]
        sure = [confidence_of(fitted, text.logprobs, 4, text.agreement) or 0.0 for text in texts]
        found = [Found(text.output, one, True, "") for text, one in zip(texts, sure, strict=True)]
        record = compare_answers(items, found, fitted)
        assert record["threshold"] == fitted.agreement.threshold
        assert record["precision"]["value"] >= 0.9
        assert record["changed"] > 100
        # With other beams than it was fitted with, it does not count.
        assert confidence_of(fitted, texts[0].logprobs, 3, 10.0) == confidence_of(fitted, texts[0].logprobs)
