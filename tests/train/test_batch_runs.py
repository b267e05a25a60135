"""Runs on mixtures, in stages of context and on pairs: what they see, and that kill -9 costs nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jslm.learn.next_token
from jslm.config import Config, config_to_toml
from jslm.errors import JslmError
from jslm.infer import rewrite_prompt
from jslm.prepare import prepare
from jslm.runs.folder import RunFolder
from jslm.tokens import open_tokens
from jslm.train import loop, train

TEXT = "the cat sat on a mat and saw one big red dog near my old tree while rain fell down"
KILLS = 12


def write_text(path: Path, documents: int, seed: int) -> Path:
    choice = random.Random(seed)
    texts = [" ".join(choice.choice(TEXT.split()) for _ in range(choice.randint(2, 12))) for _ in range(documents)]
    path.write_text("\n\n".join(texts), "utf-8")
    return path


@pytest.fixture
def mixture(make_config: Callable[..., Config], tmp_path: Path) -> dict[str, Any]:
    """Two prepared corpora with one tokenizer, as the `data` section of a run on both."""
    data: dict[str, Any] = {"separator": "\n\n", "split": "document", "validation_fraction": 0.1}
    first, second = tmp_path / "first", tmp_path / "second"
    source = str(write_text(tmp_path / "first.txt", 150, 1))
    prepare(make_config(data=data | {"source": source, "dir": str(first)}))
    source = str(write_text(tmp_path / "second.txt", 60, 2))
    tokenizer = {"path": str(first / "tokenizer.json")}
    prepare(make_config(data=data | {"source": source, "dir": str(second)}, tokenizer=tokenizer))
    corpora = [{"dir": str(first), "weight": 1.0}, {"dir": str(second), "weight": 2.0}]
    return {"source": "", "packing": "documents", "mixture": corpora}


STAGES = [{"context": 4, "until": 0.25}, {"context": 8, "until": 0.5}]


def test_a_mixture_in_stages_trains_on_all_and_compiles_once_a_stage(
    make_config: Callable[..., Config],
    mixture: dict[str, Any],
    helpers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: Counter[tuple[int, ...]] = Counter()
    loss_sums = jslm.learn.next_token.loss_sums

    def counting(params: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        # Validation has no z-loss.
        traced[inputs.shape] += "z_loss" in options
        return loss_sums(params, inputs, *args, **options)

    counted: list[int] = []
    place_batch = loop.place_batch

    def noting(batch: Any, *args: Any) -> Any:
        counted.append(int(np.sum(batch["targets"] >= 0)))
        return place_batch(batch, *args)

    monkeypatch.setattr(jslm.learn.next_token, "loss_sums", counting)
    monkeypatch.setattr(loop, "place_batch", noting)
    config = make_config(data=mixture, train={"steps": 16, "curriculum": STAGES, "micro_batch": 4, "log_every": 1})
    outcome = train(config)
    assert (outcome.status, outcome.step) == ("finished", 16)
    # Rows of a micro-batch and their length; a second compilation of a stage would trace it again.
    traced = +traced
    assert set(traced) == {(16, 4), (8, 8), (4, 16)}
    assert len(set(traced.values())) == 1
    lines = [line for line in helpers.read_lines(config.run_dir) if "train/loss" in line]
    # The last window of a corpus is filled up, with what does not count.
    assert [line["tokens"] for line in lines] == np.cumsum(counted[:16]).tolist()
    assert 15 * 8 * 16 < sum(counted[:16]) <= 16 * 8 * 16
    whole = sum(len(open_tokens(corpus["dir"], "val").tokens) for corpus in mixture["mixture"])
    assert [line for line in helpers.read_lines(config.run_dir) if "val/loss" in line][-1]["val/tokens"] == whole
    # The same again has nothing to do, and longer in other stages goes on.
    assert train(config).step == 16
    longer = make_config(data=mixture, train={"steps": 20, "micro_batch": 4, "log_every": 1})
    assert train(longer).step == 20


def test_epochs_of_a_mixture_count_all_corpora(make_config: Callable[..., Config], mixture: dict[str, Any]) -> None:
    config = make_config(
        data=mixture | {"packing": "windows", "stride": 8}, train={"steps": 0, "epochs": 0.5, "eval_every": 0}
    )
    windows = [-(-(len(open_tokens(corpus["dir"], "train").tokens) - 17) // 8) + 1 for corpus in mixture["mixture"]]
    assert train(config).step == -(-sum(windows) // 2 // 8)


def test_prompts_are_not_in_the_loss(make_config: Callable[..., Config], helpers: Any, tmp_path: Path) -> None:
    lines = "".join(f"{word * 2}\t{word}\n" for word in TEXT.split())
    (tmp_path / "pairs.tsv").write_text(lines, "utf-8")
    data: dict[str, Any] = {
        "source": str(tmp_path / "pairs.tsv"),
        "format": "text",
        "separator": "\n",
        "prompt_end": "\t",
        "packing": "documents",
        "validation_fraction": 0.3,
    }
    config = make_config(data=data, train={"steps": 2, "eval_every": 0})
    train(config)
    file = open_tokens(config.data_dir, "val")
    assert file.prompts is not None
    learned = len(file.tokens) - int(file.prompts.sum())
    assert 0 < learned < len(file.tokens) / 2
    assert helpers.read_lines(config.run_dir)[-1]["val/tokens"] == learned


def test_other_weights_can_not_continue(make_config: Callable[..., Config], mixture: dict[str, Any]) -> None:
    train(make_config(data=mixture))
    mixture["mixture"][0]["weight"] = 5.0
    with pytest.raises(JslmError, match=r"weights = .*; resume with the same seed, data section"):
        train(make_config(data=mixture, train={"steps": 16}))


def test_a_corpus_of_another_tokenizer_is_refused(
    make_config: Callable[..., Config], mixture: dict[str, Any], tmp_path: Path
) -> None:
    source = str(write_text(tmp_path / "third.txt", 60, 3))
    other = make_config(data={"source": source, "dir": str(tmp_path / "third")}, tokenizer={"kind": "byte"})
    prepare(other)
    mixture["mixture"].append({"dir": str(tmp_path / "third")})
    with pytest.raises(JslmError, match=r"third was made with tokenizer .*tokenizer\.path = '.*first/tokenizer\.json'"):
        train(make_config(data=mixture))


def test_a_mixture_is_nothing_to_prepare(make_config: Callable[..., Config], mixture: dict[str, Any]) -> None:
    for force in (False, True):
        with pytest.raises(JslmError, match=r"data\.mixture: its corpora are prepared one by one"):
            prepare(make_config(data=mixture), force=force)


def test_a_corpus_that_is_not_prepared_is_named(make_config: Callable[..., Config], tmp_path: Path) -> None:
    corpora = [{"dir": str(tmp_path / "nowhere")}]
    with pytest.raises(JslmError, match=r"nowhere/meta\.json: not found: .* holds no prepared data"):
        train(make_config(data={"source": "", "mixture": corpora}))


@pytest.fixture
def reap() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put here are dead when the test is over."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_dozen_kills_end_with_the_same_bits(
    make_config: Callable[..., Config],
    mixture: dict[str, Any],
    helpers: Any,
    tmp_path: Path,
    reap: list[subprocess.Popen[str]],
) -> None:
    """Packed, mixed, in stages. Every other kill is at a random moment of the start, the others between steps."""
    steps, choice = 150, random.Random(20)
    sections: dict[str, Any] = {
        "data": mixture,
        "train": {"steps": steps, "curriculum": STAGES, "eval_every": 0, "log_every": 1, "ema_decay": 0.9},
        "checkpoint": {"every": 6},
        "model": {"dropout": 0.1},
        "sample": {"every": 10_000},
    }

    def start(name: str) -> tuple[Any, Path]:
        config = make_config(name, **sections)
        file = tmp_path / f"{name}.toml"
        file.write_text(config_to_toml(config), "utf-8")
        runner = helpers.Process(file)
        return runner, Path(config.run_dir)

    def wait_for(process: subprocess.Popen[str], run_dir: Path, began: float, step: int) -> None:
        """Until this process, begun at `began`, has logged `step`; what it found there may be of later steps."""
        file, deadline = run_dir / "metrics.jsonl", time.time() + 120
        while True:
            is_own = file.exists() and file.stat().st_mtime > began
            if is_own and file.read_bytes().count(b'"train/loss"') >= step:
                return
            assert process.poll() is None, process.communicate()
            assert time.time() < deadline, "no progress"
            time.sleep(0.002)

    runner, whole_dir = start("whole")
    done = runner.run()
    assert done.returncode == 0, done.stderr
    runner, run_dir = start("killed")
    resumed, starting = 0, 0.0
    for kill in range(KILLS):
        saved = max((int(path.name[5:]) for path in run_dir.glob("checkpoints/step_????????")), default=0)
        began = time.time()
        process = runner.start()
        reap.append(process)
        if kill % 2:
            time.sleep(choice.uniform(0, starting))
        else:
            wait_for(process, run_dir, began, saved + choice.randint(4, 18))
            starting = starting or time.time() - began
            time.sleep(choice.uniform(0, 0.03))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        resumed += "resuming at step" in process.communicate()[1]
    done = runner.run()
    assert done.returncode == 0, done.stderr
    assert resumed >= KILLS // 2 - 1
    helpers.assert_same_arrays(helpers.read_checkpoint(run_dir), helpers.read_checkpoint(whole_dir))
    lines = [line["step"] for line in helpers.read_lines(run_dir) if "train/loss" in line]
    assert lines == list(range(1, steps + 1))


def test_a_mixture_of_pairs_says_how_it_is_asked(make_config: Callable[..., Config], tmp_path: Path) -> None:
    lines = "".join(f'{{"prompt": "say {word}", "completion": "{word}"}}\n' for word in TEXT.split())
    (tmp_path / "pairs.jsonl").write_text(lines, "utf-8")
    corpora: list[dict[str, Any]] = []
    tokenizer = {"kind": "byte"}
    for name, template in (("tab", "{prompt}\t{completion}"), ("line", "{prompt}\n{completion}")):
        data = {
            "source": str(tmp_path / "pairs.jsonl"),
            "template": template,
            "prompt_end": template[8],
            "split": "auto",
        }
        folder = str(tmp_path / name)
        prepare(make_config(data=data | {"dir": folder, "packing": "documents"}, tokenizer=tokenizer))
        corpora.append({"dir": folder})
    mixed: dict[str, Any] = {"source": "", "packing": "documents", "mixture": corpora[:1]}
    config = make_config("one", data=mixed, tokenizer=tokenizer, train={"steps": 1, "objective": "sft"})
    train(config)
    assert rewrite_prompt(RunFolder(config.run_dir).read_config().data, "say it") == "say it\t"
    both = make_config("both", data=mixed | {"mixture": corpora}, tokenizer=tokenizer, train={"objective": "sft"})
    with pytest.raises(JslmError, match=r"tab and .*line were prepared with another data\.prompt_end"):
        train(both)
