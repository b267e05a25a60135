"""MLflow, by its own settings: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. An example of how little a tracker is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.extras import load_extra
from jslm.train.trackers.tracker import TrackedRun

_STATUSES = {"interrupted": "KILLED", "failed": "FAILED"}


def open_tracker(run: TrackedRun) -> Mlflow:
    """A run in an experiment ("jslm" by default), or the one that this run had before. Raises JslmError without mlflow.

    The store is that of MLFLOW_TRACKING_URI; where that is not set, MLflow's own default in the working folder.
    """
    client = load_extra("mlflow", "mlflow", "train.trackers = ['mlflow']").MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "jslm"
    if run.known_id:
        client.update_run(run.known_id, status="RUNNING")
        return Mlflow(client, run.known_id)
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run_id = client.create_run(number, run_name=run.name).info.run_id
    run.keep_id(run_id)
    client.log_dict(run_id, dict(run.config), "config.json")
    return Mlflow(client, run_id)


class Mlflow:
    """Figures as metrics; samples, report and config as artifacts."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        """A metric a key; MLflow's names allow slashes."""
        for key, value in values.items():
            self._client.log_metric(self._run_id, key, value, timestamp=round(walltime * 1000), step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        """A text file a step."""
        self._client.log_text(self._run_id, text, f"{tag}/step_{step:08d}.txt")

    def file(self, path: Path) -> None:
        """A copy of the file."""
        self._client.log_artifact(self._run_id, str(path))

    def close(self, status: str) -> None:
        """The run's status in MLflow's words."""
        self._client.set_terminated(self._run_id, _STATUSES.get(status, "FINISHED"))
