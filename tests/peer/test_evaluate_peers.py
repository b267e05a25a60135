"""Perplexity and benchmarks beside transformers, and jslm's models inside lm-evaluation-harness."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jslm
from jslm.evaluate.choices import answer_questions, likelihoods
from jslm.evaluate.plan import plan_tasks
from jslm.evaluate.questions import Question
from jslm.evaluate.text_loss import text_loss
from jslm.formats import export_model
from jslm.infer import LanguageModel
from jslm.runs.bundle import Bundle

torch = pytest.importorskip("torch", reason="torch is not installed")
# After it is sure that the module is used: other tests would find the Hub closed.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
# Threads that wait for each other only get in the way of models this small.
torch.set_num_threads(1)
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]

Opened = tuple[Any, Any]


def open_folder(folder: Path, tokenizer: str = "AutoTokenizer") -> Opened:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, getattr(transformers, tokenizer).from_pretrained(folder)


def logprobs(model: Any, ids: list[int]) -> np.ndarray:
    """Log-probability of each of `ids` but the first, in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    found: np.ndarray = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    return found


def perplexity(theirs: Opened, text: str, context: int, stride: int) -> float:
    """The sliding window of transformers' own guide on fixed-length models, after the start of a document."""
    model, tokenizer = theirs
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    total, done, begin = 0.0, 1, 0
    while done < len(ids):
        end = min(begin + context + 1, len(ids))
        # The last window is a full one too.
        begin = max(0, end - context - 1)
        total -= logprobs(model, ids[begin:end])[done - begin - 1 :].sum()
        done, begin = end, begin + stride
    return float(np.exp(total / (len(ids) - 1)))


@pytest.fixture(scope="module")
def stories(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Opened]:
    """The trained model of 260K parameters, imported from llama2.c's file and exported to transformers."""
    file = assets / "checkpoints" / "stories260K" / "stories260K.bin"
    folder = tmp_path_factory.mktemp("stories") / "hf"
    export_model(file, folder, format="hf")
    return jslm.load(file), open_folder(folder)


@pytest.mark.parametrize("stride", [128, 512])
def test_perplexity_of_an_imported_model(stories: tuple[LanguageModel, Opened], assets: Path, stride: int) -> None:
    ours, theirs = stories
    text = (assets / "tinystories" / "v2_valid_head_0.8MB.txt").read_text("utf-8")[:4000]
    found = text_loss(ours, text, stride=stride)
    assert found.tokens > 3 * 512
    assert found.perplexity == pytest.approx(perplexity(theirs, text, 512, stride), rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_perplexity_of_a_trained_run(
    trained: Callable[..., tuple[Bundle, np.ndarray]], tmp_path: Path, assets: Path, kind: str
) -> None:
    bundle, _ = trained(kind)
    export_model(bundle.config.run_dir, tmp_path / "hf", format="hf", checkpoint="latest")
    ours = jslm.load(bundle.config.run_dir, checkpoint="latest")
    text = "Once upon a time the cat saw one big red dog. " * 12
    for stride in (40, 128):
        expected = perplexity(open_folder(tmp_path / "hf"), text, 128, stride)
        assert text_loss(ours, text, stride=stride).perplexity == pytest.approx(expected, rel=2e-5)


def their_scores(theirs: Opened, question: Question) -> list[tuple[float, int]]:
    """(log-probability, characters) of each choice, one at a time and without padding."""
    model, tokenizer = theirs
    scores = []
    for choice in question.choices:
        # As the harness does: spaces at the context's end are the continuation's.
        context = question.context.rstrip()
        whole = tokenizer.encode(question.context + choice, add_special_tokens=False)
        shared = len(tokenizer.encode(context, add_special_tokens=False)) if context else 0
        ids = [tokenizer.bos_token_id, *whole]
        scores.append((float(logprobs(model, ids)[shared:].sum()), len(choice.removeprefix(" "))))
    return scores


def accuracies(scores: list[list[tuple[float, int]]], questions: tuple[Question, ...]) -> tuple[float, float]:
    chosen = [[int(np.argmax([s / n**power for s, n in one])) for one in scores] for power in (0, 1)]
    right = [np.mean([c == q.answer for c, q in zip(one, questions, strict=True)]) for one in chosen]
    return float(right[0]), float(right[1])


@pytest.mark.slow
@pytest.mark.parametrize(("task", "limit"), [("blimp", 25), ("hellaswag", 30)])
def test_benchmarks_of_an_imported_model(
    stories: tuple[LanguageModel, Opened], assets: Path, task: str, limit: int
) -> None:
    ours, theirs = stories
    questions = plan_tasks([task], assets / "eval", limit=limit)[0][task]
    assert len(questions) == (150 if task == "blimp" else 30)
    scores = [their_scores(theirs, question) for question in questions]
    flat = [score for one in scores for score, _ in one]
    found = likelihoods(ours, [(question.context, choice) for question in questions for choice in question.choices])
    np.testing.assert_allclose([likelihood.logprob for likelihood in found], flat, rtol=2e-5)
    record = answer_questions(ours, questions)
    assert (record["accuracy"], record["accuracy_normalized"]) == accuracies(scores, questions)


def test_benchmarks_of_a_folder_of_transformers(assets: Path) -> None:
    folder = assets / "checkpoints" / "hf_tiny_random_llama"
    ours, theirs = jslm.load(folder), open_folder(folder, "PreTrainedTokenizerFast")
    questions = plan_tasks(["blimp"], assets / "eval", limit=10)[0]["blimp"]
    scores = [their_scores(theirs, question) for question in questions]
    record = answer_questions(ours, questions)
    assert record["accuracy"] == accuracies(scores, questions)[0]


BLIMP_TASK = """
task: jslm_blimp
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
metric_list: [{{metric: acc}}]
"""
HELLASWAG_TASK = """
task: jslm_hellaswag
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
output_type: multiple_choice
validation_split: validation
process_docs: !function {utils}.process_docs
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.mark.slow
def test_the_harness_finds_the_same(
    stories: tuple[LanguageModel, Opened], assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra harness)")
    from lm_eval.tasks import TaskManager

    from jslm.evaluate.harness import HarnessModel

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    ours, _ = stories
    blimp, hellaswag = tmp_path / "blimp.jsonl", tmp_path / "hellaswag.jsonl"
    for file, whole in ((blimp, "blimp_passive_1.jsonl"), (hellaswag, "hellaswag_200.jsonl")):
        lines = (assets / "eval" / whole).read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:30]), "utf-8")
    # The harness's own preparation of HellaSwag, which is not called here by jslm's.
    source = Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "utils.py"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "hellaswag_utils.py").write_text(source.read_text("utf-8"), "utf-8")
    for name, text in (("blimp", BLIMP_TASK), ("hellaswag", HELLASWAG_TASK)):
        filled = text.format(file={"blimp": blimp, "hellaswag": hellaswag}[name], utils="hellaswag_utils")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(filled, "utf-8")
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=HarnessModel(ours), tasks=["jslm_blimp", "jslm_hellaswag"], task_manager=manager, bootstrap_iters=0
    )["results"]
    questions, *_ = plan_tasks([f"blimp={blimp}", f"hellaswag={hellaswag}"], "")
    mine = {name: answer_questions(ours, chosen) for name, chosen in questions.items()}
    assert found["jslm_blimp"]["acc,none"] == mine["blimp"]["accuracy"]
    assert found["jslm_hellaswag"]["acc,none"] == mine["hellaswag"]["accuracy"]
    assert found["jslm_hellaswag"]["acc_norm,none"] == mine["hellaswag"]["accuracy_normalized"]


def test_the_harness_rolls_and_writes(stories: tuple[LanguageModel, Opened]) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra harness)")
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model, model_registry

    from jslm.errors import JslmError
    from jslm.evaluate.harness import HarnessModel

    ours, theirs = stories
    model = HarnessModel(ours)
    text = "Once upon a time there was a little dog. " * 60
    [found] = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    tokens = len(ours.tokenizer.encode(text))
    assert np.exp(-found / tokens) == pytest.approx(perplexity(theirs, text, 512, 512), rel=2e-5)
    asked = {"until": ["."], "max_gen_toks": 40, "do_sample": False, "temperature": 0.0}
    prompts = ["Once upon a time", "Tim and " * 400]
    requests = [Instance("generate_until", {}, (prompt, asked), 0) for prompt in prompts]
    written = model.generate_until(requests)
    assert written[0] == ours.generate(prompts[0], greedy=True, max_new_tokens=40, stop=".")
    assert written[1]
    with pytest.raises(JslmError, match="generation_kwargs: num_beams can't be set here"):
        model.generate_until([Instance("generate_until", {}, ("x", {"num_beams": 4}), 0)])
    model_registry.register("jslm", target="jslm.evaluate.harness:HarnessModel")
    assert get_model("jslm") is HarnessModel
