from __future__ import annotations

import copy
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm.config import DataConfig, RewriteConfig, config_from_dict, config_to_toml
from jslm.errors import JslmError
from jslm.infer import LanguageModel, Rewrite, RewriteArguments, Row, rewrite_prompt
from jslm.infer import rewrite as rewrite_module
from jslm.prompts.pairs import split_pair
from jslm.runs.checkpoint import CheckpointStore
from jslm.sample.__main__ import main

Pairs = dict[str, str]
CHANGED = "A letter was written by Ann."
REWRITTEN = "Ann wrote a letter."
SAME = "We heard the bells of the town."
UNKNOWN = "The cat ate a letter."


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "jslm"):
        yield caplog


def test_sentences_become_what_the_model_learned(rewriter: LanguageModel, pairs: Pairs) -> None:
    expected = [
        Rewrite(prompt, completion, found.confidence, prompt != completion, found.reason, found.logprob)
        for (prompt, completion), found in zip(pairs.items(), rewriter.rewrite(list(pairs)), strict=True)
    ]
    assert rewriter.rewrite(list(pairs)) == expected
    assert rewriter.rewrite(CHANGED)[0].output == REWRITTEN
    ways: list[RewriteArguments] = [{"lookup": False}, {"batch_size": 3}, {"beams": 2}]
    for way in ways:
        found = rewriter.rewrite(list(pairs), **way)
        assert [(each.source, each.output, each.changed) for each in found] == [
            (each.source, each.output, each.changed) for each in expected
        ]
        for one, other in zip(found, expected, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_confidence_is_the_mean_probability_of_what_was_written(rewriter: LanguageModel) -> None:
    (found,) = rewriter.rewrite([CHANGED])
    tokenizer = rewriter.tokenizer
    prompt = [tokenizer.eot_id, *tokenizer.encode(CHANGED + "\n")]
    written = [*tokenizer.encode(REWRITTEN), tokenizer.eot_id]
    logprobs = np.asarray(jax.nn.log_softmax(rewriter.logits(prompt + written[:-1])[0]))[len(prompt) - 1 :]
    mean = float(np.mean(logprobs[np.arange(len(written)), written]))
    assert found.logprob == pytest.approx(mean, abs=1e-4)
    assert found.confidence == pytest.approx(np.exp(mean), abs=1e-4)


def test_a_sentence_under_the_threshold_stays(rewriter: LanguageModel) -> None:
    ((sure, unsure), (kept, left)) = (
        rewriter.rewrite([CHANGED, UNKNOWN], threshold=threshold) for threshold in (None, 0.95)
    )
    assert kept == sure
    assert sure.confidence is not None
    assert unsure.confidence is not None
    assert unsure.confidence < 0.95 < sure.confidence
    assert unsure.changed
    assert (left.output, left.changed, left.confidence) == (UNKNOWN, False, unsure.confidence)
    assert left.reason == f"not sure enough: {unsure.confidence:.2f}, and 0.95 is asked for"


def test_white_space_and_blank_sentences_stay(rewriter: LanguageModel) -> None:
    found = rewriter.rewrite([f"  {CHANGED}\t", "", "   ", SAME])
    assert [each.output for each in found] == [f"  {REWRITTEN}\t", "", "   ", SAME]
    assert [each.changed for each in found] == [True, False, False, False]
    assert found[1] == Rewrite("", "", None, False, "blank")
    assert found[3].reason == "nothing to change"


def test_what_cannot_be_read_stays_and_is_told(rewriter: LanguageModel, log: pytest.LogCaptureFixture) -> None:
    long = "The old house was sold by Ann. " * 3
    zoe = "Zoë’s letter was written by Ann."
    found = rewriter.rewrite([CHANGED, long, zoe, f"{CHANGED}\n{CHANGED}", CHANGED], batch_size=5)
    assert [each.changed for each in found] == [True, False, False, False, True]
    assert [each.output for each in found[1:4]] == [each.source for each in found[1:4]]
    assert [each.confidence for each in found[1:4]] == [None, None, None]
    assert [record.getMessage() for record in log.records] == [
        "sentence 2: 93 tokens, the context of this model is 80; left unchanged",
        "sentence 3: the tokenizer has never seen 'Z', 'ë', '’'; left unchanged",
        "sentence 4: '\\n' in it, which for this model ends a prompt; left unchanged",
    ]


def test_a_warning_has_the_number_of_the_text_not_of_its_sentence(
    rewriter: LanguageModel, log: pytest.LogCaptureFixture
) -> None:
    model = copy.copy(rewriter)
    model.config = rewriter.config.model_copy(update={"rewrite": RewriteConfig(sentences=True)})
    found = model.rewrite([SAME, f"{CHANGED} Zoë was told by Ann."], batch_size=2)
    assert found[1].output == f"{REWRITTEN} Zoë was told by Ann."
    assert [record.getMessage() for record in log.records] == [
        "sentence 2: the tokenizer has never seen 'Z', 'ë'; left unchanged"
    ]


def test_what_does_not_end_stays_and_is_told(rewriter: LanguageModel, log: pytest.LogCaptureFixture) -> None:
    (found,) = rewriter.rewrite([CHANGED], max_new_tokens=7)
    assert (found.output, found.changed) == (CHANGED, False)
    assert [record.getMessage() for record in log.records] == [
        "sentence 1: its rewrite has not ended after 7 tokens; left unchanged"
    ]


def test_sentences_are_taken_as_they_are_needed(rewriter: LanguageModel) -> None:
    taken = []

    def sentences() -> Iterator[str]:
        for sentence in (CHANGED, SAME, CHANGED):
            taken.append(sentence)
            yield sentence

    stream = rewriter.rewrite_stream(sentences())
    assert taken == []
    assert next(stream).output == REWRITTEN
    assert taken == [CHANGED]
    assert [each.output for each in stream] == [SAME, REWRITTEN]


def pair_format(template: str, prompt_end: str) -> DataConfig:
    data = {"template": template, "prompt_end": prompt_end, "packing": "documents"}
    return config_from_dict({"data": data}, "test").data


@pytest.mark.parametrize(
    ("template", "prompt_end", "expected"),
    [
        ("", "", "A {b}.\n"),
        ("", "\t", "A {b}.\t"),
        ("{title}: {text}", "", "A {b}.\n"),
        ("{prompt} => {completion}", "", "A {b}. => "),
        ("<{{in}}> {prompt}\n<out>{completion}\n", "<out>", "<{in}> A {b}.\n<out>"),
    ],
)
def test_prompt_is_as_in_the_training_data(template: str, prompt_end: str, expected: str) -> None:
    data = pair_format(template, prompt_end)
    assert rewrite_prompt(data, "A {b}.") == expected
    if prompt_end and template:
        filled = template.format(prompt="A {b}.", completion="B.")
        assert split_pair(filled, prompt_end)[0] == expected


def test_template_that_wants_more_is_refused() -> None:
    with pytest.raises(JslmError, match=r"has a sentence for \{prompt\} alone, and this model also wants \{style\}"):
        rewrite_prompt(pair_format("{style}: {prompt}\n{completion}", "\n"), "A.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.5}, "threshold = -0.5; expected a probability from 0 to 1"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"beams": 0}, "beams = 0; expected 1"),
        ({"alpha": -1.0}, "alpha = -1.0; expected 0 or more"),
        ({"batch_size": 0}, "batch_size = 0; expected 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0; expected 1 or more"),
        ({"conditions": {"style": "formal"}}, "has no condition 'style'; it was trained without any"),
        ({"threshold": "0.5"}, "threshold = '0.5'; expected a probability from 0 to 1"),
        ({"beams": 1.5}, "beams = 1.5; expected 1"),
        ({"batch_size": True}, "batch_size = True; expected 1 or more"),
        ({"conditions": "style=formal"}, "conditions = 'style=formal'; expected names and labels"),
    ],
)
def test_bad_arguments(rewriter: LanguageModel, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(JslmError, match=message):
        rewriter.rewrite_stream([CHANGED], **arguments)  # type: ignore[arg-type]


def test_what_is_no_text_is_refused(rewriter: LanguageModel) -> None:
    wrong: Any = [CHANGED, None]
    with pytest.raises(JslmError, match="sentence 2 = None; expected a text"):
        rewriter.rewrite(wrong)
    wrong = None
    with pytest.raises(JslmError, match="sentences = None; expected a text, or several"):
        rewriter.rewrite(wrong)
    wrong = {"max_new_tokens": "5"}
    with pytest.raises(JslmError, match="max_new_tokens = '5'; expected 1 or more"):
        rewriter.generate("a", **wrong)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, rewriter: LanguageModel) -> str:
    """The rewriter as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "rewriter"
    folder.mkdir()
    (folder / "config.toml").write_text(config_to_toml(rewriter.config), "utf-8")
    (folder / "run.json").write_text(json.dumps({"data": {"end_of_text": True}}), "utf-8")
    rewriter.tokenizer.save(folder / "tokenizer.json")
    store = CheckpointStore(folder / "checkpoints")
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rewriter.params["layers"])
    fingerprint = {"val_loss": 0.1, "tokenizer_fingerprint": rewriter.tokenizer.fingerprint}
    store.save(1, {"params": {**rewriter.params, "layers": stacked}}, fingerprint)
    store.wait()
    return str(folder)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compilation cache in the home folder."""
    monkeypatch.setenv("JSLM_COMPILATION_CACHE", "off")
    yield
    logging.getLogger("jslm").setLevel(logging.NOTSET)


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_lines_of_stdin(run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give_stdin(monkeypatch, f"\ufeff{CHANGED}\n\n{UNKNOWN}\r\n{SAME}".encode())
    assert main(["--run", run, "--threshold", "0.95", "--rewrite"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{REWRITTEN}\n\n{UNKNOWN}\r\n{SAME}\n"
    assert "1 of 4 lines changed" in err
    assert "tokens/s" in err


def test_files_in_order_as_json(
    run: str, rewriter: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], log: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text(f"{CHANGED}\n{'A' * 90}\n", "utf-8")
    second.write_text(f"{SAME}\n", "utf-8")
    for way in ([], ["--no-lookup"], ["--beams", "2", "--alpha", "0.5"], ["--batch-size", "2"]):
        assert main(["--run", run, "--json", *way, "--rewrite", str(first), str(second)]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [list(line) for line in found] == [
            ["source", "output", "confidence", "changed", "reason", "logprob"]
        ] * 3
        assert [line["output"] for line in found] == [REWRITTEN, "A" * 90, SAME]
        assert [line["changed"] for line in found] == [True, False, False]
        assert found[1]["confidence"] is None
        assert found[0]["confidence"] == pytest.approx(rewriter.rewrite(CHANGED)[0].confidence, abs=1e-4)
    assert log.records[0].getMessage() == (
        f"{first}: line 2: 91 tokens, the context of this model is 80; left unchanged"
    )


def test_bad_bytes_are_told_after_the_lines_before_them(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes(f"{CHANGED}\n".encode() + b"caf\xe9\n")
    assert main(["--run", run, "--rewrite", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == f"{REWRITTEN}\n"
    assert err.splitlines()[-1] == f"jslm sample: error: {file}: line 2: not UTF-8 text (byte 3 of the line)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewrite", "--temperature", "0.5"], "--temperature has no meaning with --rewrite; leave it out"),
        (["--rewrite", "--num-samples", "2"], "--num-samples has no meaning with --rewrite"),
        (["--prompt", "a", "--threshold", "-1"], "--threshold has no meaning without --rewrite"),
        (["--prompt", "a", "--no-lookup"], "--no-lookup has no meaning without --rewrite"),
        (["--rewrite", "--threshold", "2"], "threshold = 2.0; expected a probability from 0 to 1"),
        (["--rewrite", "missing.txt"], "missing.txt: No such file or directory"),
        (["--rewrite", "missing.txt", "rewrite.threshold=0.9"], "rewrite.threshold was settled when the model was cal"),
    ],
)
def test_mistakes_on_the_command_line(
    run: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["--run", run, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


def test_settings_of_the_model_hold(rewriter: LanguageModel) -> None:
    def told(**settings: Any) -> LanguageModel:
        model = copy.copy(rewriter)
        model.config = rewriter.config.model_copy(update={"rewrite": RewriteConfig(**settings)})
        return model

    both = f"{CHANGED} {SAME} {CHANGED}\n"
    (found,) = told(sentences=True).rewrite([both])
    assert found.output == f"{REWRITTEN} {SAME} {REWRITTEN}\n"
    assert found.changed
    (kept,) = told(sentences=True).rewrite([f"{SAME} {SAME}"])
    assert (kept.changed, kept.reason) == (False, "nothing to change")
    # It stays as the one that might have changed.
    (alone,) = told(threshold=0.99).rewrite([UNKNOWN])
    (told_of,) = told(sentences=True, threshold=0.99).rewrite([f"{SAME} {UNKNOWN}\n\n{SAME}"])
    assert told_of.reason.startswith("not sure enough: ")
    assert (told_of.reason, told_of.confidence) == (alone.reason, alone.confidence)
    assert told(faithful=True).rewrite(CHANGED)[0].output == REWRITTEN
    # What the model makes of words it never saw in this order is not the sentence any more.
    (unsure,) = told(faithful=True).rewrite([UNKNOWN])
    assert unsure.output == UNKNOWN
    assert unsure.reason.startswith("the rewrite says something else: ")
    sure = rewriter.rewrite(CHANGED)[0].confidence
    assert sure is not None
    assert not told(threshold=(1 + sure) / 2).rewrite(CHANGED)[0].changed
    assert told(threshold=(1 + sure) / 2).rewrite(CHANGED, threshold=0.0)[0].changed


@pytest.mark.parametrize("retries", [False, True])
def test_of_several_the_best_that_is_faithful(
    rewriter: LanguageModel, monkeypatch: pytest.MonkeyPatch, retries: bool
) -> None:
    model = copy.copy(rewriter)
    settings = RewriteConfig(faithful=True, retry_beams=3 if retries else 0)
    model.config = rewriter.config.model_copy(update={"rewrite": settings})
    seen: list[str] = []

    def first_is_refused(sentence: str, output: str, *, may_add: bool = False) -> str:
        if output not in seen:
            seen.append(output)
        return "other words" if output == seen[0] else ""

    monkeypatch.setattr("jslm.infer.rewrite.unfaithful", first_is_refused)
    monkeypatch.setattr("jslm.infer.judgement.unfaithful", first_is_refused)
    (found,) = model.rewrite([CHANGED], beams=None if retries else 3)
    assert seen[0] == REWRITTEN
    assert found.output == seen[1] != REWRITTEN
    assert found.confidence is not None
    (greedy,) = model.rewrite([CHANGED], beams=1)
    assert greedy.reason == "the rewrite says something else: other words"


def in_parts(rewriter: LanguageModel, retry_beams: int = 0, clause_word: str = "") -> LanguageModel:
    model = copy.copy(rewriter)
    settings = RewriteConfig(faithful=True, clause_characters=60, retry_beams=retry_beams, clause_word=clause_word)
    model.config = rewriter.config.model_copy(update={"rewrite": settings})
    return model


def test_a_long_sentence_is_rewritten_in_parts(rewriter: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    def finds_nothing(*arguments: Any, **more: Any) -> list[Any]:
        searched.append("")
        return []

    monkeypatch.setattr(rewrite_module, "clause_runs", runs_at_full_stops)
    monkeypatch.setattr(rewrite_module, "write_beams", finds_nothing)
    model = in_parts(rewriter, retry_beams=2)
    # The first fits into the context, and comes out wrong in one; the second does not fit; of the third nothing can
    # change, so it is searched for, as far as that goes.
    fits, beyond = f"{SAME} {CHANGED}", f"{SAME} {SAME} {CHANGED}"
    assert rewriter.config.model.context_length < len(beyond)
    found = model.rewrite([fits, beyond, f"{UNKNOWN} {UNKNOWN}", CHANGED])
    assert [each.output for each in found[:2]] == [f"{SAME} {REWRITTEN}", f"{SAME} {SAME} {REWRITTEN}"]
    assert found[2].reason.startswith("the rewrite says something else: ")
    assert len(searched) == 1
    (alone,) = model.rewrite([CHANGED])
    assert found[3] == alone
    # As sure as of the part, which is written in a batch.
    for each in found[:2]:
        assert each.logprob == pytest.approx(alone.logprob, abs=1e-4)
    (written,) = rewrite_module.written(model, [beyond])
    assert written is not None
    assert (written.output, written.changed) == (found[1].output, True)
    # By itself the whole is what there is.
    assert not model.rewrite([fits], beams=1)[0].changed


def test_a_long_sentence_of_which_no_part_changes_stays(
    rewriter: LanguageModel, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rewrite_module, "clause_runs", runs_at_full_stops)
    model = in_parts(rewriter)
    calm, odd = " ".join([SAME] * 3), f"{SAME} {SAME} {UNKNOWN}"
    stayed, refused = model.rewrite([calm, odd])
    assert (stayed.output, stayed.reason) == (calm, "nothing to change")
    assert refused.output == odd
    assert refused.reason.startswith("the rewrite says something else: ")
    assert not log.records
    monkeypatch.setattr(rewrite_module, "clause_runs", lambda sentence, most: [])
    (unread,) = model.rewrite([calm])
    assert unread.reason == "96 tokens, the context of this model is 80"


def test_only_parts_with_the_word_are_tried(rewriter: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_module, "clause_runs", runs_at_full_stops)
    written: list[int] = []
    write = rewrite_module.write_greedy

    def counted(model: LanguageModel, rows: list[Row], **more: Any) -> int:
        written.append(len(rows))
        return write(model, rows, **more)

    monkeypatch.setattr(rewrite_module, "write_greedy", counted)
    long, calm = f"{SAME} {SAME} {CHANGED}", " ".join([SAME] * 3)
    model = in_parts(rewriter, clause_word="by")
    assert model.rewrite(long)[0].output == f"{SAME} {SAME} {REWRITTEN}"
    assert written == [0, 1]
    written.clear()
    stayed = model.rewrite(calm)[0]
    assert (stayed.output, stayed.reason) == (calm, "nothing to change")
    assert not any(written)
    assert in_parts(rewriter).rewrite(long)[0].output == f"{SAME} {SAME} {REWRITTEN}"
    assert written[-1] == 4


def runs_at_full_stops(sentence: str, most: int) -> list[tuple[int, int]]:
    starts = [0, *(match.end() for match in re.finditer(r"\. ", sentence))]
    runs = zip(starts, [*(start - 1 for start in starts[1:]), len(sentence)], strict=True)
    return [(start, end) for start, end in runs if end - start <= most] if len(starts) > 1 else []


def test_there_is_no_search_where_the_greedy_rewrite_stands(
    rewriter: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.copy(rewriter)
    model.config = rewriter.config.model_copy(update={"rewrite": RewriteConfig(faithful=True, retry_beams=4)})
    searched: list[int] = []
    search = rewrite_module.write_beams

    def counted(*arguments: Any, **more: Any) -> Any:
        searched.append(1)
        return search(*arguments, **more)

    monkeypatch.setattr(rewrite_module, "write_beams", counted)
    assert model.rewrite(CHANGED)[0].output == REWRITTEN
    assert model.rewrite(SAME)[0].reason == "nothing to change"
    assert not searched
    # None of the four has the words of this sentence either: what was written greedily is what there is.
    greedy = model.rewrite(UNKNOWN, beams=1)[0]
    monkeypatch.setattr(rewrite_module, "unfaithful", lambda *a, **k: "other words")
    assert model.rewrite(UNKNOWN)[0] == greedy
    assert len(searched) == 1


def test_someone_may_be_built_in_or_asked_for(letters: LanguageModel) -> None:
    assert not rewrite_module.may_add(letters)
    built_in = copy.copy(letters)
    built_in.fixed_conditions = {"agentless": "someone"}
    assert rewrite_module.may_add(built_in)
    assert rewrite_module.may_add(built_in, {})
    assert rewrite_module.may_add(letters, {"agentless": "someone"})
