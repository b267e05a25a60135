"""A run whose files were damaged is opened with the right values, or with an error that names what is damaged."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm.config import config_from_dict
from jslm.errors import JslmError
from jslm.evaluate import Plan, evaluate_run
from jslm.formats import import_model, load_model
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import CheckpointStore, flatten_tree
from jslm.runs.folder import RunFolder
from jslm.runs.manifest import MANIFEST
from jslm.train import train

STEPS = (8, 12)


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with checkpoints at 8 and 12, of which 12 is the best."""
    run = tmp_path_factory.mktemp("damage") / "run"
    values: dict[str, Any] = {
        "run_dir": str(run),
        "data": {"source": str(text_file), "dir": str(run.parent / "data")},
        "tokenizer": {"kind": "char"},
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 16, "dtype": "float32"},
        "optimizer": {"warmup_steps": 4, "learning_rate": 0.01},
        "train": {"steps": 12, "batch_size": 8, "eval_every": 4, "tensorboard": False, "report": False},
        "sample": {"prompts": []},
    }
    assert train(config_from_dict(values, "test")).exit_status == 0
    assert CheckpointStore(run / "checkpoints").best_step() == 12
    return run


@pytest.fixture(scope="module")
def arrays(trained: Path) -> dict[int, dict[str, np.ndarray]]:
    """Step -> every array of the undamaged checkpoint, by name."""
    store = CheckpointStore(trained / "checkpoints")
    return {step: as_numpy(store.restore(abstract(store, step), step)) for step in STEPS}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def abstract(store: CheckpointStore, step: int) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    saved = store._saved_arrays(step)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for name, leaf in saved.items()}


def as_numpy(flat: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def assert_bundle_of(bundle: Bundle, wanted: Bundle, arrays: dict[str, np.ndarray]) -> None:
    found = flatten_tree(bundle.params)
    for name, leaf in found.items():
        assert np.asarray(leaf).tobytes() == arrays[f"params/{name}"].tobytes(), name
    assert bundle.config == wanted.config.model_copy(update={"run_dir": bundle.config.run_dir})
    assert bundle.tokenizer.to_json() == wanted.tokenizer.to_json()
    assert bundle.ends_documents == wanted.ends_documents


def flip(file: Path, choice: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if not data:
        return extra(file, choice)
    data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    file.write_bytes(data)
    return None


def cut(file: Path, choice: random.Random) -> None:
    size = file.stat().st_size
    if size < 2:
        return extra(file, choice)
    os.truncate(file, choice.randrange(1, size))
    return None


def empty(file: Path, choice: random.Random) -> None:
    if not file.stat().st_size:
        return extra(file, choice)
    file.write_bytes(b"")
    return None


def remove(file: Path, choice: random.Random) -> None:
    del choice
    file.unlink()


def extra(file: Path, choice: random.Random) -> None:
    file.with_name("more").write_bytes(choice.randbytes(5))


DAMAGES: list[Callable[[Path, random.Random], None]] = [flip, cut, empty, remove, extra]


def drill(trained: Path, arrays: Any, folder: Path, caplog: pytest.LogCaptureFixture, rounds: int, seed: int) -> None:
    """Damages one file of a copy, and opens it as sampling and as training do."""
    wanted = load_model(trained)
    of_run = ("config.toml", "tokenizer.json", "run.json", "metrics.jsonl")
    template = abstract(CheckpointStore(trained / "checkpoints"), 12)
    choice = random.Random(seed)
    for number in range(rounds):
        run = Path(shutil.copytree(trained, folder / f"run{number}"))
        files = sorted(file for file in (run / "checkpoints").rglob("*") if file.is_file())
        file = run / choice.choice(of_run) if choice.random() < 0.3 else choice.choice(files)
        damage = choice.choice(DAMAGES)
        damage(file, choice)
        in_checkpoint = file in files
        damaged = int(file.relative_to(run).parts[1].removeprefix("step_")) if in_checkpoint else 0
        what = f"round {number}: {damage.__name__} {file.relative_to(run)}"
        for opens in ("sample", "train"):
            # The second one finds what the first has set aside: each gets a copy of its own.
            copy = Path(shutil.copytree(run, folder / f"{opens}{number}"))
            caplog.clear()
            refused = ""
            try:
                if opens == "sample":
                    bundle = load_model(copy)
                    assert_bundle_of(bundle, wanted, arrays[8 if damaged == 12 else 12])
                else:
                    store = CheckpointStore(copy / "checkpoints")
                    restored = store.restore_newest(partial(store.restore, template))
                    assert restored is not None, what
                    step, state = restored
                    assert step == (8 if damaged == 12 else 12), what
                    for name, leaf in as_numpy(state).items():
                        assert leaf.tobytes() == arrays[step][name].tobytes(), f"{what}: {name}"
            except JslmError as error:
                refused = str(error)
            said = refused + caplog.text
            if in_checkpoint:
                assert not refused, what
                assert f"step_{damaged:08d}" in said, what
                assert (copy / "checkpoints" / f"step_{damaged:08d}.damaged").is_dir(), what
                assert "the one before is used" in said, what
            elif said:
                assert file.name in said or "not a run folder" in said, f"{what}: {said}"
            shutil.rmtree(copy)
        shutil.rmtree(run)


@pytest.mark.slow
def test_two_hundred_random_damages_are_all_found(
    trained: Path, arrays: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drill(trained, arrays, tmp_path, caplog, 200, seed=2)


def newest_file(run: Path, step: int) -> Path:
    files = (file for file in (run / "checkpoints" / f"step_{step:08d}" / "state").rglob("*") if file.is_file())
    return max(files, key=lambda file: file.stat().st_size)


def test_a_checkpoint_has_its_manifest_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was killed before the manifest is no checkpoint, and the next save needs not come for it to be one."""
    store = CheckpointStore(tmp_path / "checkpoints")
    state = {"params": jax.numpy.arange(3.0)}
    store.save(1, state, {})
    assert store._pending is not None
    store._pending._thread.join()
    assert (store.path(1) / MANIFEST).is_file()

    def killed(folder: Path, about: object) -> None:
        assert not store.path(2).exists()
        raise KeyboardInterrupt(folder)

    with monkeypatch.context() as patched:
        patched.setattr("jslm.runs.checkpoint.write_manifest", killed)
        store.save(2, state, {})
        with pytest.raises(KeyboardInterrupt):
            store.wait()
    assert store.steps() == [1]
    assert (tmp_path / "checkpoints" / "step_00000002.saving").is_dir()
    assert store.restore_newest(lambda step: step) == (1, 1)
    assert [path.name for path in store.folder.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("kind", ["arrays", "manifest", "no manifest"])
def test_every_reader_takes_the_one_before(
    run: Path, tmp_path: Path, kind: str, arrays: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = run / "checkpoints" / "step_00000012" / MANIFEST
    if kind == "no manifest":
        manifest.unlink()
    else:
        flip(manifest if kind == "manifest" else newest_file(run, 12), random.Random(1))
    start = Path(shutil.copytree(run, tmp_path / "start"))
    assert evaluate_run(run, Plan(split=None))["step"] == 8
    assert (run / "checkpoints" / "step_00000012.damaged").is_dir()
    values = RunFolder(run).read_config().model_dump()
    values["run_dir"] = str(tmp_path / "next")
    values["train"] |= {"init_from": str(start), "steps": 1}
    values["optimizer"] |= {"learning_rate": 1e-12, "weight_decay": 0.0}
    caplog.clear()
    assert train(config_from_dict(values, "test")).step == 1
    assert "step_00000012" in caplog.text
    for name, leaf in flatten_tree(load_model(tmp_path / "next").params).items():
        np.testing.assert_allclose(leaf, arrays[8][f"params/{name}"], atol=1e-8)


def test_where_none_is_whole_nothing_is_touched(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in STEPS:
        flip(newest_file(run, step), random.Random(step))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    # A second try finds the same: nothing starts anew by itself.
    for _ in range(2):
        with pytest.raises(JslmError, match=r"step_00000012/.* checksum .*; every checkpoint is damaged: put"):
            load_model(run)
        with pytest.raises(JslmError, match="every checkpoint is damaged"):
            train(RunFolder(run).read_config().model_copy(update={"run_dir": str(run)}))
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    with pytest.raises(JslmError, match="its checksum is not the one it was written with"):
        load_model(run, checkpoint="8")
    # Following the advice.
    shutil.rmtree(run / "checkpoints")
    assert train(RunFolder(run).read_config().model_copy(update={"run_dir": str(run)})).step == 12


@pytest.mark.parametrize("layout", ["none", "old"])
def test_runs_of_earlier_versions_open(run: Path, layout: str, arrays: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Their manifests have no checksum of their own, and the newest checkpoint often none."""
    newest = run / "checkpoints" / "step_00000012"
    manifest = json.loads((newest / MANIFEST).read_text("utf-8"))["files"]
    saved = newest / "_CHECKPOINT_METADATA"
    fields = json.loads(saved.read_text("utf-8"))
    for key in ("has_manifest", "end_of_text", "chat_template"):
        del fields["custom_metadata"][key]
    saved.write_text(json.dumps(fields), "utf-8")
    if layout == "none":
        (newest / MANIFEST).unlink()
    else:
        import zlib

        manifest[saved.name] = [saved.stat().st_size, zlib.crc32(saved.read_bytes())]
        (newest / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    found = load_model(run)
    assert np.asarray(found.params["embed"]["tokens"]).tobytes() == arrays[12]["params/embed/tokens"].tobytes()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (layout == "none")
    assert all("step_00000012: of an earlier version of jslm, without manifest.json" in text for text in warnings)
    if layout == "old":
        flip(newest_file(run, 12), random.Random(0))
        assert load_model(run).figures["steps"] == 8


def test_what_a_config_lost_is_not_sampled_with(run: Path) -> None:
    file = run / "config.toml"
    text = file.read_text("utf-8")
    for old, new in (("temperature = 0.8", "temperature = 0.9"), ("rope_theta = 10000.0", "rope_theta = 50000.0")):
        file.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(JslmError, match=r"config\.toml: edited or damaged: .* delete its first line"):
            load_model(run)
    # Following the advice: what is no part of the model may be changed by hand, and only that.
    first, _, rest = text.partition("\n")
    assert first.startswith("# crc32 = ")
    file.write_text(rest.replace("temperature = 0.8", "temperature = 0.9"), "utf-8")
    assert load_model(run).config.sample.temperature == 0.9
    file.write_text(rest.replace("rope_theta = 10000.0", "rope_theta = 50000.0"), "utf-8")
    with pytest.raises(JslmError, match=r"model\.rope_theta = 50000\.0, but .*step_00000012 was saved with 10000\.0"):
        load_model(run)
    file.write_text("", "utf-8")
    with pytest.raises(JslmError, match=r"config\.toml: damaged: empty"):
        load_model(run)


def test_a_lost_config_is_not_trained_on_with_another(run: Path) -> None:
    config = RunFolder(run).read_config()
    (run / "config.toml").unlink()
    model = config.model.model_copy(update={"norm_eps": 1e-3})
    other = config.model_copy(update={"run_dir": str(run), "model": model})
    with pytest.raises(JslmError, match=r"step_00000012: was saved with model\.norm_eps = 1e-05, .* has 0\.001"):
        train(other)


def test_a_damaged_run_json_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = run / "run.json"
    text = file.read_text("utf-8")
    ended = load_model(run).ends_documents
    assert caplog.text == ""
    for number, damaged in enumerate((text.replace('"end_of_text": ', '"end_of_tex_": '), "", text[:-30])):
        copy = Path(shutil.copytree(run, run.parent / f"copy{number}"))
        (copy / "run.json").write_text(damaged, "utf-8")
        assert load_model(copy).ends_documents == ended
        assert f"{copy / 'run.json'}: damaged" in caplog.text


def test_an_imported_model_stays_one_without_its_run_json(run: Path, tmp_path: Path) -> None:
    from jslm.formats import export_model

    export_model(run, tmp_path / "m.safetensors", format="safetensors")
    import_model(tmp_path / "m.safetensors", tmp_path / "back")
    (tmp_path / "back" / "run.json").unlink()
    config = RunFolder(tmp_path / "back").read_config()
    values = RunFolder(run).read_config().model_dump() | {"model": config.model.model_dump()}
    values["run_dir"] = str(tmp_path / "back")
    with pytest.raises(JslmError, match="an imported model, which training would overwrite"):
        train(config_from_dict(values, "test"))
