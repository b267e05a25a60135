"""Labels from records to a model that knows them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm import JslmError
from jslm.config import ConditionConfig, config_from_dict
from jslm.formats import export_model, load_model
from jslm.prepare import prepare
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder
from jslm.tokens.loader import TrainLoader
from jslm.tokens.token_file import open_tokens, verify
from jslm.train import train


def silent(message: str) -> None:
    del message


def write_records(path: Path, count: int = 120) -> list[dict[str, str | None]]:
    """Texts that only their label tells: `loud` ones shout the same word that `quiet` ones whisper."""
    choice = random.Random(0)
    records: list[dict[str, str | None]] = []
    for _ in range(count):
        word = choice.choice(["cat", "dog", "sea", "tree"])
        style = choice.choice(["loud", "quiet"])
        records.append(
            {
                "prompt": word,
                "completion": word.upper() if style == "loud" else word,
                "style": style,
                "domain": choice.choice(["home", None]),
            }
        )
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return records


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_dir": str(folder / "run"),
        "data": {
            "source": str(folder / "pairs.jsonl"), "dir": str(folder / "data"), "template": "{prompt}\t{completion}",
            "prompt_end": "\t", "packing": "documents", "conditions": ["style", "domain"],
        },
        "tokenizer": {"kind": "byte"},
        "model": {"n_layers": 1, "d_model": 32, "n_heads": 2, "context_length": 32, "dtype": "float32"},
        "optimizer": {"name": "muon", "learning_rate": 2e-2, "warmup_steps": 5, "weight_decay": 0.0},
        "train": {
            "steps": 8, "batch_size": 8, "eval_every": 0, "eval_batches": 1, "tensorboard": False, "report": False,
        },
        **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(tmp_path / "pairs.jsonl")
    return tmp_path


def test_batches_have_each_documents_labels(folder: Path) -> None:
    records = write_records(folder / "pairs.jsonl")
    prepared = prepare(config_from_dict(values(folder), "test"), log=silent)
    assert prepared.meta["conditions"] == {"style": ["loud", "quiet"], "domain": ["home"]}
    verify(folder / "data")
    # The model has them in another order, and one label more.
    conditions = (
        ConditionConfig(name="domain", labels=("work", "home")),
        ConditionConfig(name="style", labels=("quiet", "loud")),
    )
    file = open_tokens(folder / "data", "train")
    loader = TrainLoader(file, context_length=24, batch_size=4, seed=0, packing="documents", conditions=conditions)
    style_of = {(r["prompt"], r["completion"]): r["style"] for r in records}
    seen = 0
    for step in range(6):
        batch = loader.batch_at(step)
        assert set(batch) == {"inputs", "targets", "segments", "condition/style", "condition/domain"}
        for row in range(4):
            for number in range(1, batch["segments"][row].max() + 1):
                here = batch["segments"][row] == number
                # The first input is the token that ends what came before.
                text = bytes(batch["inputs"][row][here][1:].tolist()).decode()
                prompt, _, completion = text.partition("\t")
                [style] = set(batch["condition/style"][row][here].tolist())
                [domain] = set(batch["condition/domain"][row][here].tolist())
                assert ("quiet", "loud")[style] == style_of[prompt, completion]
                assert domain in (-1, 1)
                seen += 1
            assert (batch["condition/style"][row][batch["segments"][row] == 0] == -1).all()
    loader.close()
    assert seen > 30


def test_the_files_do_not_depend_on_the_workers(folder: Path) -> None:
    one = config_from_dict(values(folder), "test")
    two = config_from_dict({**values(folder), "prepare": {"workers": 2}}, "test")
    prepare(one, log=silent)

    def files() -> dict[str, bytes]:
        # What inputs.json says besides is when the sources were read.
        named = {path.name: path for path in (folder / "data").iterdir() if path.is_file()}
        return {name: path.read_bytes() for name, path in named.items() if name != "inputs.json"}

    before = files()
    assert {"train.labels", "val.labels", "train.prompts"} <= set(before)
    prepare(two, force=True, log=silent)
    assert files() == before


def test_a_model_learns_what_its_labels_mean(folder: Path) -> None:
    settings = values(folder)
    settings["train"]["steps"] = 150
    train(config_from_dict(settings, "test"))
    config = RunFolder(folder / "run").read_config()
    assert [(c.name, c.labels) for c in config.model.conditions] == [
        ("style", ("loud", "quiet")),
        ("domain", ("home",)),
    ]
    params = load_model(folder / "run").params
    tables = params["embed"]["conditions"]
    assert np.asarray(tables["style"]).any()
    # Every label counts in validation: without them its loss could not fall under one bit a document.
    loss = RunFolder(folder / "run").read_info()["result"]["val/loss"]
    assert loss < 0.1
    export_model(folder / "run", folder / "m.safetensors", format="safetensors")
    again = load_model(folder / "m.safetensors")
    assert again.config.model.conditions == config.model.conditions
    np.testing.assert_array_equal(again.params["embed"]["conditions"]["style"], tables["style"])
    with pytest.raises(JslmError, match=r"model\.conditions \(style, domain\)"):
        export_model(folder / "run", folder / "hf", format="hf")


def test_a_plain_model_can_learn_conditions_later(folder: Path) -> None:
    base = values(folder)
    base["data"] |= {"conditions": [], "dir": str(folder / "plain")}
    base["run_dir"] = str(folder / "base")
    train(config_from_dict(base, "test"))
    tuned = values(folder)
    tuned["train"]["init_from"] = str(folder / "base")
    train(config_from_dict(tuned, "test"))
    params = CheckpointStore(folder / "run" / "checkpoints").load_part(8, "params")
    assert np.asarray(params["embed"]["conditions"]["style"]).any()
    # And a later one keeps the labels' order, though its data has fewer.
    fewer = values(folder)
    lines = (folder / "pairs.jsonl").read_text("utf-8").splitlines()
    (folder / "pairs.jsonl").write_text("\n".join(line for line in lines if '"quiet"' in line) + "\n", "utf-8")
    fewer["data"]["dir"] = str(folder / "fewer")
    export_model(folder / "run", folder / "run.safetensors", format="safetensors")
    for name, start in (("third", "run"), ("fourth", "run.safetensors")):
        fewer["train"]["init_from"], fewer["run_dir"] = str(folder / start), str(folder / name)
        train(config_from_dict(fewer, "test"))
        assert RunFolder(folder / name).read_config().model.conditions[0].labels == ("loud", "quiet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "completion": "b", "style": "loud"}', r"pairs\.jsonl:121: no key 'domain'.*mend data\.cond"),
        ('{"prompt": "a", "completion": "b", "style": [], "domain": "x"}', "key 'style' holds list"),
    ],
)
def test_bad_labels_are_one_line(folder: Path, line: str, message: str) -> None:
    with (folder / "pairs.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(JslmError, match=message) as error:
        prepare(config_from_dict(values(folder), "test"), log=silent)
    assert "\n" not in str(error.value)


def test_what_has_no_labels_is_refused(folder: Path) -> None:
    settings = values(folder)
    (folder / "text.txt").write_text("a\tb", "utf-8")
    settings["data"]["source"] = str(folder / "text.txt")
    with pytest.raises(JslmError, match="no record with labels, but plain text"):
        prepare(config_from_dict(settings, "test"), log=silent)
    settings["data"] |= {"packing": "windows", "prompt_end": ""}
    with pytest.raises(JslmError, match=r"data\.conditions.*needs data\.packing = 'documents'"):
        config_from_dict(settings, "test")


def test_a_strange_label_is_named(folder: Path) -> None:
    prepare(config_from_dict(values(folder), "test"), log=silent)
    settings = values(folder)
    settings["model"]["conditions"] = [{"name": "style", "labels": ["loud"]}]
    with pytest.raises(JslmError, match=r"label 'quiet' of 'style' is not among model\.conditions, which has loud"):
        train(config_from_dict(settings, "test"))
