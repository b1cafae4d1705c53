"""Log parameters and metrics to MLflow: a server, a database or a folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dnntrain.choices.track._base import (
    flatten_config,
    iterate_scalars,
    make_missing_package_error,
    select_finite,
)
from dnntrain.config.fields import PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import TrackChoice, Tracker
from dnntrain.utils.files import check_file, open_file, read_text, write_text
from dnntrain.utils.messages import warn_user

#: MLflow's limits: entries of a batch, characters of a parameter's value.
_MAX_BATCH_PARAMETERS = 100
_MAX_BATCH_METRICS = 1000
_MAX_VALUE_LENGTH = 6000

#: Metrics kept for a server that does not answer.
_MAX_BUFFERED_METRICS = 100_000

_RUN_FILE = "mlflow_run"

#: MLflow itself retries for minutes.
_REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}

#: Beginnings of addresses on this machine, besides plain paths.
_LOCAL_SCHEMES = ("sqlite:", "file:")

#: Seconds for a database or folder of this machine: several runs may wait for its tables to be made.
_MAX_LOCAL_WAIT_S = 300.0


@dataclass(frozen=True)
class Mlflow(TrackChoice):
    """Log to MLflow by optimizer step, with the same names as in TensorBoard.

    A resumed run also resumes in MLflow.
    """

    uri: str | None = None  # storage of MLflow's runs; null: MLFLOW_TRACKING_URI, else mlflow.db in the run directory
    experiment: str = "dnntrain"  # MLflow's name for a collection of runs
    every_rows: PositiveInt = 20  # rows of metrics that are sent together

    @property
    def max_wait_s(self) -> float:
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:"
        return _MAX_LOCAL_WAIT_S if uri.startswith(_LOCAL_SCHEMES) or "://" not in uri else super().max_wait_s

    def list_code_options(self) -> tuple[str, ...]:
        return ("uri",) if self.uri else ()

    def build(self) -> Tracker:
        """Return the tracker. Raises ConfigError if the package is not installed."""
        if find_spec("mlflow") is None:
            raise make_missing_package_error("mlflow", "mlflow")
        import_module("mlflow.tracking")  # here, because it takes seconds that are not the server's
        return MlflowTracker(self.uri, self.experiment, self.every_rows)


class MlflowTracker:
    """One run of MLflow, through its client: no global state is set.

    The run directory keeps the ID of the run.
    """

    def __init__(self, uri: str | None, experiment: str, every_rows: int) -> None:
        self._uri = uri
        self._experiment = experiment
        self._every_rows = every_rows
        self._client: Any = None
        self._run_id = ""
        self._metrics: list[Any] = []
        self._buffered_rows = 0

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        uri = (
            self._uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(run_dir).absolute() / 'mlflow.db'}"
        )
        for name, value in _REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        check_file(Path(run_dir) / "mlflow.db")
        try:
            with _lock_database(uri):
                self._client = MlflowClient(tracking_uri=uri)
                has_resumed = self._resume_run(Path(run_dir))
                if not has_resumed:
                    self._run_id = self._create_run(run_dir)
            if not has_resumed:
                write_text(Path(run_dir) / _RUN_FILE, self._run_id)
                parameters = [Param(key, value[:_MAX_VALUE_LENGTH]) for key, value in flatten_config(config)]
                for first in range(0, len(parameters), _MAX_BATCH_PARAMETERS):
                    self._client.log_batch(self._run_id, params=parameters[first : first + _MAX_BATCH_PARAMETERS])
        except (MlflowException, OSError) as error:
            raise ConfigError(
                f"track.mlflow.uri={uri} cannot be used: {error}", "name a server or a file that can be written"
            ) from None

    def log_row(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._metrics += [Metric(tag, value, now_ms, int(row["step"])) for tag, value in iterate_scalars(row)]
        self._buffered_rows += 1
        if self._buffered_rows >= self._every_rows or row.get("split") in ("val", "test"):
            self._send_metrics()

    def close(self, result: Mapping[str, Any]) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now_ms, step = int(time.time() * 1000), int(result.get("steps") or 0)
        self._metrics += [
            Metric(f"result/{name}", value, now_ms, step) for name, value in select_finite(result).items()
        ]
        self._send_metrics()
        status = {"done": "FINISHED", "preempted": "KILLED", "interrupted": "KILLED"}.get(
            str(result.get("status")), "FAILED"
        )
        try:
            self._client.set_terminated(self._run_id, status=status)
        except (MlflowException, OSError) as error:
            warn_user(f"MLflow cannot record the end of the run: {error}")

    def _send_metrics(self) -> None:
        """Send the buffered metrics.

        If that fails, training continues, and the metrics are sent with the next ones.
        """
        from mlflow.exceptions import MlflowException

        self._buffered_rows = 0
        while self._metrics:
            try:
                self._client.log_batch(self._run_id, metrics=self._metrics[:_MAX_BATCH_METRICS])
            except (MlflowException, OSError) as error:
                warn_user(f"MLflow cannot record the metrics, which are kept to be sent later: {error}")
                del self._metrics[:-_MAX_BUFFERED_METRICS]
                return
            del self._metrics[:_MAX_BATCH_METRICS]

    def _resume_run(self, run_dir: Path) -> bool:
        """Return whether the run directory names a run that MLflow knows.

        The status of that run is then running again.
        """
        from mlflow.exceptions import MlflowException

        try:
            run_id = read_text(run_dir / _RUN_FILE).strip()
        except OSError:
            return False
        if re.fullmatch(r"[0-9a-f]{32}", run_id) is None:
            return False
        try:
            self._client.set_terminated(run_id, status="RUNNING")
        except MlflowException:
            return False
        self._run_id = run_id
        return True

    def _create_run(self, run_dir: str) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        experiment_id = (
            experiment.experiment_id if experiment is not None else self._client.create_experiment(self._experiment)
        )
        path = Path(run_dir)
        run = self._client.create_run(
            experiment_id, run_name="/".join(path.parts[-2:]), tags={"dnntrain.run_dir": str(path)}
        )
        run_id: str = run.info.run_id
        return run_id


@contextmanager
def _lock_database(uri: str) -> Iterator[None]:
    """Hold a lock beside a SQLite file: several runs cannot make its tables at once."""
    file = uri.removeprefix("sqlite:///")
    if file == uri:
        yield
        return
    import fcntl

    with open_file(Path(f"{file}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
