"""What a user gets wrong, through the command line: one line that helps, a status that is not 0, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.prepare.__main__ import main as prepare_main
from jslm.sample.__main__ import main as sample_main
from jslm.train.__main__ import main as train_main

ROOT = Path(__file__).resolve().parents[1]
# Written once a folder; the tests add overrides.
CONFIG = """
data.source = {source}
tokenizer.kind = "char"
sample.max_new_tokens = 4

[model]
n_layers = 1
d_model = 16
n_heads = 2
d_ff = 16
context_length = 16

[train]
steps = 6
batch_size = 8
eval_every = 3
log_every = 1
tensorboard = false
report = false
"""

Fail = Callable[..., str]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    choice = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = "the cat sat on a mat and saw one big red dog"
    path.write_text(" ".join(choice.choice(words.split()) for _ in range(500)), "utf-8")
    return path


@pytest.fixture
def config_file(tmp_path: Path, text_file: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        f"run_dir = {json.dumps(str(tmp_path / 'run'))}\n" + CONFIG.format(source=json.dumps(str(text_file)))
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A finished run; tests that harm it take a copy."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "run.toml"
    config.write_text(
        f"run_dir = {json.dumps(str(folder / 'run'))}\n" + CONFIG.format(source=json.dumps(str(text_file)))
    )
    assert train_main(["--config", str(config)]) == 0
    return folder / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run at the place that `config_file` names."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def fail(capfd: pytest.CaptureFixture[str]) -> Fail:
    """`fail(main, *arguments)`: the one line that a failing command wrote, without its beginning."""

    def run(main: Callable[[list[str]], int], *arguments: str | Path, status: int = 2) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        out, err = capfd.readouterr()
        return one_line(out, err, main.__module__.split(".")[1])

    return run


def one_line(out: str, err: str, verb: str) -> str:
    start = f"jslm {verb}: error: "
    assert out == ""
    assert err.startswith(start), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n"), err
    assert "this is a fault in jslm" not in err
    return err.removeprefix(start).removesuffix("\n")


def run_command(config_file: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jslm.train", "--config", str(config_file), *overrides],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def last_line(err: str) -> str:
    """A command that got to work first says what it does; its error is one line, the last."""
    lines = err.splitlines()
    assert "Traceback" not in err, err
    assert sum("error:" in line for line in lines) == 1, err
    return lines[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stps=3", "train.stps"),
        ("train.steps=many", "train.steps"),
        ("train.steps=1.5", "train.steps"),
        ("model.n_heads=3", "model.n_heads = 3 does not divide model.d_model = 16"),
        ("train.micro_batch=3", "train.micro_batch = 3 does not divide train.batch_size = 8"),
        ("mesh.data=3", "mesh.data = 3, mesh.fsdp = 1, mesh.tensor = 1 does not fit 1 device(s)"),
        ("mesh.tensor=2", "does not fit 1 device(s)"),
        ("model.vocab_size=9", "model.vocab_size = 9, but the tokenizer"),
        ("train.steps", "is not an override"),
    ],
)
def test_settings(override: str, message: str, fail: Fail, config_file: Path, copied: Path) -> None:
    """With a finished run in the folder, none of whose files changes."""
    files = contents(copied)
    assert message in fail(train_main, "--config", config_file, override)
    assert contents(copied) == files


def test_unknown_key_names_the_file_and_the_nearest(fail: Fail, config_file: Path) -> None:
    config_file.write_text(config_file.read_text("utf-8").replace("batch_size", "batchsize"))
    message = fail(train_main, "--config", config_file)
    assert message.startswith(f"{config_file}: ")
    assert "train.batchsize" in message
    assert "batch_size" in message


def test_missing_config(fail: Fail, tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.toml'}: no such config file" in fail(train_main, "--config", tmp_path / "none.toml")


def test_missing_source(fail: Fail, config_file: Path, tmp_path: Path) -> None:
    for source in (str(tmp_path / "none.txt"), str(tmp_path / "*.md")):
        for main in (train_main, prepare_main):
            assert source in fail(main, "--config", config_file, f"data.source={source}")
    assert "data.source is empty" in fail(train_main, "--config", config_file, "data.source=")


def test_binary_file_as_text(fail: Fail, config_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "photo.txt"
    file.write_bytes(bytes(range(256)) * 20)
    assert str(file) in fail(train_main, "--config", config_file, f"data.source={file}")


@pytest.mark.parametrize("place", ["under a file", "/proc/nothing/run", "/dev/null/run"])
def test_run_folder_that_can_not_be(place: str, fail: Fail, config_file: Path, text_file: Path) -> None:
    run_dir = str(text_file / "run") if place == "under a file" else place
    message = fail(train_main, "--config", config_file, f"run_dir={run_dir}")
    assert message.startswith(f"run_dir = {run_dir}: cannot be written (")
    assert message.endswith("choose another run_dir")


def test_token_file_with_a_flipped_byte(fail: Fail, config_file: Path, copied: Path) -> None:
    file = copied / "data" / "train.bin"
    data = bytearray(file.read_bytes())
    data[101] ^= 1
    file.write_bytes(data)
    files = contents(copied)
    message = fail(train_main, "--config", config_file, "train.steps=8")
    assert message.startswith(f"{file}: ")
    assert "prepare again" in message
    assert contents(copied) == files


def test_token_file_cut_short(fail: Fail, config_file: Path, copied: Path) -> None:
    os.truncate(copied / "data" / "val.bin", 10)
    assert "val.bin: expected" in fail(train_main, "--config", config_file, "train.steps=8")


def test_data_of_another_tokenizer(fail: Fail, config_file: Path, copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("xyz" * 400, "utf-8")
    data = f"data.dir={tmp_path / 'other'}"
    assert prepare_main(["--config", str(config_file), f"data.source={other}", data]) == 0
    message = fail(train_main, "--config", config_file, f"data.source={other}", data, "train.steps=8")
    assert "tokenizer" in message or "vocab_size" in message
    # The folder's own tokenizer.json exchanged.
    shutil.copy(tmp_path / "other" / "tokenizer.json", copied / "tokenizer.json")
    assert "tokenizer.json" in fail(sample_main, "--run", copied, "--prompt", "the")


def test_changed_shape(fail: Fail, config_file: Path, copied: Path) -> None:
    message = fail(train_main, "--config", config_file, "model.n_layers=2")
    assert message == (
        f"run_dir = {copied}: holds a run with model.n_layers = 1, and this config has 2; use another run_dir, "
        "or the config it was started with"
    )


def test_sampling_without_a_run(fail: Fail, tmp_path: Path, copied: Path) -> None:
    assert "no such run folder" in fail(sample_main, "--run", tmp_path / "none", "--prompt", "a")
    assert "not a run folder" in fail(sample_main, "--run", tmp_path, "--prompt", "a")
    assert "no checkpoint '4'; there are best, latest, 3, 6" in fail(
        sample_main, "--run", copied, "--prompt", "a", "--checkpoint", "4"
    )
    shutil.rmtree(copied / "checkpoints")
    assert "no checkpoint yet" in fail(sample_main, "--run", copied, "--prompt", "a")


def test_sampling_from_a_damaged_checkpoint(fail: Fail, copied: Path) -> None:
    for checkpoint in (copied / "checkpoints").iterdir():
        largest = max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
        os.truncate(largest, 5)
    assert "damaged: 5 bytes, expected" in fail(sample_main, "--run", copied, "--prompt", "a")


def test_prompt_longer_than_the_context(fail: Fail, trained: Path) -> None:
    message = fail(sample_main, "--run", trained, "--prompt", "the cat sat on a mat and saw")
    assert "28" in message
    assert "16" in message


def test_characters_never_seen_are_a_warning(
    trained: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    capfd.readouterr()
    assert sample_main(["--run", str(trained), "--prompt", "the Ω", "--seed", "1"]) == 0
    out, err = capfd.readouterr()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Ω" in warnings[0]
    assert "error" not in err
    assert out


@pytest.mark.slow
def test_two_runs_at_once(config_file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "jslm.train", "--config", str(config_file), "train.steps=1000000", "train.eval_every=0"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        # The first line comes from preparing the data, with the folder locked.
        assert process.stderr.readline()
        second = run_command(config_file)
    finally:
        process.kill()
        process.communicate()
    assert second.returncode == 2
    assert "another training process is using this folder" in one_line(second.stdout, second.stderr, "train")


def test_full_disk_inside_a_save(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up after the free space was asked for."""
    from jslm.runs.checkpoint import CheckpointStore

    store = CheckpointStore(small_disk / "checkpoints")
    state = {"params": np.random.default_rng(0).standard_normal(400_000).astype(np.float32)}
    store.save(1, state, {})
    store.wait()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
        store.save(2, state, {})
        store.wait()
        store.save(3, state, {})
        with pytest.raises(JslmError, match="no space left on the disk, so this checkpoint was not saved") as caught:
            store.wait()
    assert "\n" not in str(caught.value)
    assert store.steps() == [1, 2]
    assert sorted(path.name for path in store.folder.iterdir()) == ["step_00000001", "step_00000002"]
    with pytest.raises(JslmError, match=r"a checkpoint takes 1\.6 MB, and 1\.\d MB are free"):
        store.save(3, state, {})
    shutil.rmtree(store.path(1))
    store.save(3, state, {})
    store.wait()
    store.verify(3)


@pytest.mark.slow
@pytest.mark.parametrize(("tensorboard", "pages"), [("false", 4), ("true", 0)])
def test_full_disk_while_training(tensorboard: str, pages: int, config_file: Path, small_disk: Path) -> None:
    """The run ends with one line, and goes on once there is space again, from a checkpoint that is whole."""
    keys = [f"run_dir={small_disk / 'run'}", "train.steps=40", "train.eval_every=0", f"train.tensorboard={tensorboard}"]
    assert run_command(config_file, *keys, "train.steps=6", "checkpoint.every=3").returncode == 0
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    # Room for no checkpoint, and for few metrics or none.
    os.truncate(ballast, ballast.stat().st_size - 4096 * pages)
    kept = {path.name for path in (small_disk / "run" / "checkpoints").iterdir()}
    done = run_command(config_file, *keys, "checkpoint.every=10")
    assert done.returncode == 2, done.stderr
    assert last_line(done.stderr).startswith("jslm train: error: ")
    assert "space" in last_line(done.stderr)
    assert kept <= {path.name for path in (small_disk / "run" / "checkpoints").iterdir()}
    ballast.unlink()
    done = run_command(config_file, *keys, "checkpoint.every=10")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (small_disk / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 41))
    assert not list((small_disk / "run" / "checkpoints").glob("*tmp*"))


def test_full_disk_while_preparing(config_file: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    capfd.readouterr()
    arguments = ["--config", str(config_file), f"data.dir={small_disk / 'data'}"]
    assert prepare_main(arguments) == 2
    message = last_line(capfd.readouterr().err)
    assert message.startswith(f"jslm prepare: error: {small_disk / 'data'}")
    assert "no space left" in message.lower()
    assert not list((small_disk / "data").glob("*.bin"))
    ballast.unlink()
    assert prepare_main(arguments) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root on Linux only")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder: Path) -> dict[Path, Any]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
