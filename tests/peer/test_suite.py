"""`jslm evaluate --suite` beside lm-evaluation-harness's own `hf` model: the exported model, the same documents."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.evaluate.__main__ import main
from jslm.formats import export_model
from jslm.runs.bundle import Bundle

torch = pytest.importorskip("torch", reason="torch is not installed")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
pytest.importorskip("transformers", reason="transformers is not installed")
lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra harness)")
torch.set_num_threads(1)
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"blimp_passive_1": 12, "blimp_transitive": 12, "hellaswag": 10, "lambada_standard": 12, "arc_easy": 3}
_LONGEST = 80
ARC = [
    ("What does a cow eat?", ["grass", "a big red ball", "the sun"], "ABC", "A"),
    ("Which of these is a color?", ["a dog", "red"], "12", "2"),
    ("Where does a fish live?", ["in a tree", "in a car", "in the water", "on the moon"], "ABCD", "C"),
]
# The harness's own files, but for where the documents are: what a person would write by hand.
TASK = """
include: {yaml}
task: {name}
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files: {{{split}: {file}}}
  cache_dir: {cache}
training_split: null
validation_split: {validation}
test_split: {test}
num_fewshot: 0
"""


# As where they are not installed: their modules are not found.
WITHOUT_TORCH = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.split(".")[0] in ("torch", "transformers", "accelerate")
        return None if absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from jslm.evaluate.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first documents of each benchmark, in the layouts that `--suite-data` takes."""
    folder = tmp_path_factory.mktemp("suite")
    names = {
        "blimp_passive_1": "blimp_passive_1.jsonl",
        "blimp_transitive": "blimp_transitive.jsonl",
        "hellaswag": "hellaswag_200.jsonl",
        "lambada_standard": "lambada_valid_partial.txt",
    }
    for task, name in names.items():
        lines = (assets / "eval" / name).read_text("utf-8").splitlines(keepends=True)
        if task == "hellaswag":
            # The harness's model takes no ending that is longer than the context.
            lines = [line for line in lines if max(map(len, json.loads(line)["endings"])) < _LONGEST]
        (folder / name).write_text("".join(lines[: COUNTS[task]]), "utf-8")
    with (folder / "ARC-Easy-Test.jsonl").open("w", encoding="utf-8") as file:
        for question, texts, labels, answer in ARC:
            choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
            record = {"id": question, "question": {"stem": question, "choices": choices}, "answerKey": answer}
            file.write(f"{json.dumps(record)}\n")
    return folder


def by_hand(data: Path, folder: Path) -> Any:
    """The harness's tasks on the same documents, through YAML files that include its own and its JSON reader."""
    from lm_eval.tasks import TaskManager

    shipped = Path(lm_eval.__file__).parent / "tasks"
    documents: dict[str, Path] = {name: data / f"{name}.jsonl" for name in ("blimp_passive_1", "blimp_transitive")}
    documents["hellaswag"] = data / "hellaswag_200.jsonl"
    documents["lambada_standard"], documents["arc_easy"] = folder / "lambada.jsonl", folder / "arc.jsonl"
    passages = (data / "lambada_valid_partial.txt").read_text("utf-8").splitlines()
    documents["lambada_standard"].write_text("".join(f"{json.dumps({'text': line})}\n" for line in passages), "utf-8")
    flat = [
        {"id": q, "question": q, "choices": {"text": texts, "label": list(labels)}, "answerKey": answer}
        for q, texts, labels, answer in ARC
    ]
    documents["arc_easy"].write_text("".join(f"{json.dumps(record)}\n" for record in flat), "utf-8")
    files = {
        "blimp_passive_1": "blimp/passive_1.yaml",
        "blimp_transitive": "blimp/transitive.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "lambada_standard": "lambada/lambada_standard.yaml",
        "arc_easy": "arc/arc_easy.yaml",
    }
    for name, yaml in files.items():
        split = {"blimp": "train", "hella": "validation"}.get(name[:5], "test")
        text = TASK.format(
            yaml=shipped / yaml, name=name, split=split, file=documents[name], cache=folder / "cache",
            validation="null" if split == "test" else split, test="test" if split == "test" else "null",
        )  # fmt: skip
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    group = "group: blimp\ntask: [blimp_passive_1, blimp_transitive]\n"
    group += "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: false}]\n"
    (folder / "blimp.yaml").write_text(group, "utf-8")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return manager.load(["blimp", "hellaswag", "lambada_standard", "arc_easy"])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the network; each is refused."""
    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stories260K", "bpe"])
def test_the_figures_are_those_of_the_harness_on_the_exported_model(
    kind: str,
    trained: Callable[..., tuple[Bundle, np.ndarray]],
    data: Path,
    assets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[Any],
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    model = str(assets / "checkpoints" / "stories260K" / "stories260K.bin") if kind != "bpe" else ""
    run = model or trained(kind)[0].config.run_dir
    export_model(run, tmp_path / "hf", format="hf")
    capsys.readouterr()
    arguments = ["--run", str(run), "--suite", "blimp,hellaswag,lambada,arc_easy", "--suite-data", str(data)]
    assert main([*arguments, "--json", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    ours = json.loads(printed.out)["runs"][0]["suite"]
    # None of the harness's bars, and nothing of it on stdout.
    assert "it/s" not in printed.err
    assert "Map" not in printed.err
    assert no_network == []

    (tmp_path / "tasks").mkdir()
    tasks = by_hand(data, tmp_path / "tasks")
    peer = HFLM(pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=4)
    theirs = evaluate(peer, tasks, bootstrap_iters=1000)
    assert list(ours) == ["blimp", "hellaswag", "lambada_standard", "arc_easy"]
    figures = {**theirs["results"], **theirs["groups"]}
    for task, record in ours.items():
        assert record["metrics"], task
        for name, figure in record["metrics"].items():
            assert figure["value"] == pytest.approx(figures[task][f"{name},none"], rel=1e-4), (task, name)
            assert figure["stderr"] == pytest.approx(figures[task][f"{name}_stderr,none"], rel=1e-3), (task, name)
            assert figure["low"] <= figure["value"] <= figure["high"]
        assert record["documents"] == sum(n for name, n in COUNTS.items() if name.startswith(task))
    for name, part in ours["blimp"]["parts"].items():
        assert part["value"] == figures[f"blimp_{name}"]["acc,none"]
    # A document's own log-probability, so that equal counts of right answers are no accident.
    found = [sample["perplexity"] for sample in theirs["samples"]["lambada_standard"]]
    low, high = (ours["lambada_standard"]["metrics"]["perplexity"][key] for key in ("low", "high"))
    assert np.log(low * high) / 2 == pytest.approx(-np.mean(found), rel=1e-4)
    half = 1.959964 * np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.log(high / low) / 2 == pytest.approx(half, rel=1e-4)

    passages = (data / "lambada_valid_partial.txt").read_text("utf-8").splitlines()
    lengths = [len(peer.tok_encode(line)) - len(peer.tok_encode(line.rpartition(" ")[0])) for line in passages]
    assert ours["lambada_standard"]["tokens"] == sum(lengths)
    page = (tmp_path / "out" / "evaluation.md").read_text("utf-8")
    assert "**Partial**: 24 of 67,000 documents, 2 of 67 paradigms." in page
    assert "**Partial**: 12 of 4,869 documents, the validation split in place of test." in page
    share = ours["arc_easy"]["metrics"]["acc_norm"]
    said = " ".join(f"{100 * share[key]:.1f}%" for key in ("value", "low", "high"))
    assert "| accuracy, a character | {} [{}, {}] |".format(*said.split()) in page


def test_sources_are_those_that_the_harness_would_fetch() -> None:
    """Repository, configuration and split of each task, from the harness's own files; and how many paradigms."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from jslm.evaluate.suite_data import PARADIGMS, SOURCES

    shipped = Path(lm_eval.__file__).parent / "tasks"
    folders = [str(shipped / name) for name in ("arc", "blimp", "hellaswag", "lambada")]
    index = TaskManager(include_path=folders, include_defaults=False).task_index
    for name, source in SOURCES.items():
        config = load_yaml(index["blimp_passive_1" if name == "blimp" else name].yaml_path, resolve_func=False)
        expected = source.config if name != "blimp" else "passive_1"
        assert (config["dataset_path"], config["dataset_name"]) == (source.repository, expected)
        assert (config.get("test_split") or config["validation_split"]) == source.split
    paradigms = index["blimp"].cfg["task"]
    assert len(paradigms) == PARADIGMS


@pytest.mark.slow
def test_a_paradigm_that_is_none_is_named_before_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "blimp_passive_3.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n', "utf-8")
    (tmp_path / "model.bin").write_bytes(b"no model")
    assert main(["--run", str(tmp_path / "model.bin"), "--suite", "blimp", "--suite-data", str(tmp_path)]) == 2
    assert "blimp_passive_3.jsonl: 'passive_3' is no paradigm of BLiMP; expected" in capsys.readouterr().err


@pytest.mark.slow
def test_it_needs_no_torch(data: Path, assets: Path, tmp_path: Path) -> None:
    """The extra `harness` alone, as on Python 3.12 and later: no PyTorch, no transformers."""
    model = str(assets / "checkpoints" / "stories260K" / "stories260K.bin")
    arguments = ["--run", model, "--suite", "arc_easy", "--suite-data", str(data)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JSLM_HUGE_PAGES": "off"}
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "## Suite: arc_easy" in done.stdout
