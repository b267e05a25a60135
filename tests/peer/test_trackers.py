"""What real trackers make of a run: the files that wandb wrote, and what MLflow gives back."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.train.trackers.workers import Trackers

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]
_BLOCK, _HEADER = 32768, 7


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `run-ID.wandb`: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, place, parts = path.read_bytes(), _HEADER, b""
    assert raw[:4] == b":W&B"
    while place + _HEADER <= len(raw):
        if (left := _BLOCK - place % _BLOCK) < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, place)
        place += _HEADER
        parts += raw[place : place + length]
        place += length
        # 1: whole; 2, 3, 4: first, middle and last part.
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def key_of(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    library = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield library
    library.teardown()


def tell(folder: Path, name: str, steps: range, resume_step: int | None) -> None:
    config = {"seed": 3, "train": {"steps": 8}}
    trackers = Trackers((name,), folder, config, resume_step=resume_step, closing_seconds=600)
    for step in steps:
        trackers.scalars(step, {"train/loss": 1 / step}, 1.7e9 + step)
    trackers.scalars(steps[-1], {"val/loss": 0.5}, 1.7e9)
    trackers.text(steps[-1], "samples", "<b>Once</b>\nupon")
    (folder / "report.html").write_text("<h1>report</h1>")
    trackers.file(folder / "report.html")
    (folder / "samples.md").write_text("## Step 4")
    trackers.file(folder / "samples.md")
    trackers.close("finished")


def test_wandb_offline_run_is_whole_and_goes_on(
    wandb: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tell(tmp_path, "wandb", range(1, 5), None)
    tell(tmp_path, "wandb", range(5, 9), 4)
    assert [record for record in caplog.records if record.name == "jslm"] == []
    assert capfd.readouterr().out == ""
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)
    assert len(files) == 2
    first, second = (list(wandb_records(path)) for path in files)
    runs = [record.run for records in (first, second) for record in records if record.HasField("run")]
    assert {(run.project, run.display_name) for run in runs} == {("jslm", tmp_path.name)}
    # The same name in both: `wandb sync` makes one run of them.
    assert len({run.run_id for run in runs}) == 1
    assert runs[0].run_id in (tmp_path / "trackers.json").read_text()
    config = {item.key: item.value_json for item in runs[0].config.update}
    assert config["seed"] == "3"
    history: dict[int, dict[str, str]] = {}
    for record in first + second:
        if record.HasField("history"):
            items = {key_of(item): item.value_json for item in record.history.item}
            history.setdefault(int(items["_step"]), {}).update(items)
    assert {step: float(row["train/loss"]) for step, row in history.items()} == {n: 1 / n for n in range(1, 9)}
    assert history[4]["val/loss"] == history[8]["val/loss"] == "0.5"
    assert any("samples" in key for key in history[8])
    assert any("report" in key for key in history[8])
    media = "".join(path.read_text() for path in files[1].parent.rglob("*.html"))
    assert "&lt;b&gt;Once&lt;/b&gt;\nupon" in media
    assert "<h1>report</h1>" in media
    assert [record.exit.exit_code for record in second if record.HasField("exit")] == [0]
    assert (files[1].parent / "files" / "samples.md").read_text() == "## Step 4"


def test_wandb_without_a_connection_writes_for_later(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jslm.train.trackers.wandb._CONNECTING_SECONDS", 2.0)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with caplog.at_level(logging.WARNING, "jslm"):
        tell(tmp_path, "wandb", range(1, 5), None)
    (record,) = (record for record in caplog.records if record.name == "jslm")
    assert "wandb: no connection (" in record.getMessage()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert str(file.parent) in record.getMessage()
    # Another process writes the file; once it has ended all of it is there, however busy the machine is.
    wandb.teardown()
    assert sum(record.HasField("history") for record in wandb_records(file)) == 4


def test_wandb_without_a_login_is_one_line(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with caplog.at_level(logging.WARNING, "jslm"):
        tell(tmp_path, "wandb", range(1, 3), None)
    first, count = (record.getMessage() for record in caplog.records if record.name == "jslm")
    assert "run wandb login, or set WANDB_MODE=offline" in first
    assert " 6 of 6 " in count
    assert not (tmp_path / "trackers.json").exists()


def test_mlflow_gives_back_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra `mlflow` is not installed")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tales")
    monkeypatch.chdir(tmp_path)
    tell(tmp_path, "mlflow", range(1, 5), None)
    tell(tmp_path, "mlflow", range(5, 9), 4)
    assert [record for record in caplog.records if record.name == "jslm"] == []
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("tales").experiment_id])
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in losses} == {n: 1 / n for n in range(1, 9)}
    assert losses[0].timestamp == 1_700_000_001_000
    artifacts = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (artifacts / "report.html").read_text() == "<h1>report</h1>"
    assert (artifacts / "samples" / "step_00000008.txt").read_text() == "<b>Once</b>\nupon"


def test_mlflow_without_a_server_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, "jslm"):
        tell(tmp_path, "mlflow", range(1, 3), None)
    first, count = (record.getMessage() for record in caplog.records if record.name == "jslm")
    assert "mlflow: " in first
    assert " 6 of 6 " in count
