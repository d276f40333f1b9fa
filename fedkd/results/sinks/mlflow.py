"""MLflow: a store in ``mlflow/`` of the run, or at ``MLFLOW_TRACKING_URI`` where that is set."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from fedkd.results.sinks.sink import About, Sink, numbers


@final
class Writer(Sink):
    """One MLflow run in the experiment "fedkd"; seeds of one experiment have the same tag ``group``."""

    needs: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "fedkd[mlflow]"

    def __init__(self, about: About) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, folder = Metric, about.path / "mlflow"
        folder.mkdir(exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client, note = MlflowClient(tracking_uri=uri), folder / "run_id"
        if note.exists():
            self._run = note.read_text().strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        there = self._client.get_experiment_by_name("fedkd")
        number = there.experiment_id if there else self._client.create_experiment("fedkd")
        self._run = self._client.create_run(number, run_name=about.path.name, tags={"group": about.group}).info.run_id
        note.write_text(f"{self._run}\n")
        for key, value in about.experiment.items():
            self._client.log_batch(self._run, params=[Param(key, str(value)[:500])])

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """One step. Of a round that was done twice, MLflow keeps both values."""
        now = int(1000 * time.time())
        metrics = [self._metric(key, value, now, row["round"]) for key, value in numbers(row).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run)
