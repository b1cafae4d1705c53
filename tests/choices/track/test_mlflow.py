"""track=mlflow: the clean error without the package; where it is installed, the real thing on a database of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dnntrain.choices.track import mlflow as module
from dnntrain.choices.track.mlflow import Mlflow
from dnntrain.errors import ConfigError

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")

ROW = {"epoch": 0.5, "examples": 64, "wall_s": 0.1, "split": "train", "loss": 0.5, "examples_per_s": 640.0}


def session(run: Path, status: str, *steps: int) -> None:
    tracker = Mlflow().build()
    tracker.start(str(run), {"seed": 0, "optim": {"lr": 0.1}})
    for step in steps:
        tracker.log_row({"step": step, **ROW})
    tracker.close({"status": status, "value": 0.875, "steps": steps[-1]})


def stored(run: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    return client, client.get_run((run / "mlflow_run").read_text())


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dnntrain\[track\]"'):
        Mlflow().build()


def test_a_local_store_is_waited_for_and_a_server_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = (None, "sqlite:////data/m.db", "file:/data/runs", "runs")
    assert {Mlflow(uri=uri).max_wait_s for uri in local} == {300.0}
    assert {Mlflow(uri=uri).max_wait_s for uri in ("http://host:5000", "https://host")} == {20.0}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert Mlflow().max_wait_s == 20.0


@needs_mlflow
@pytest.mark.slow
def test_a_run_is_stored_with_parameters_metrics_and_status(tmp_path: Path) -> None:
    session(tmp_path, "done", 10, 20)
    client, run = stored(tmp_path)
    assert run.data.params == {"seed": "0", "optim.lr": "0.1"}
    assert run.data.metrics["result/value"] == 0.875
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [10, 20]


@needs_mlflow
@pytest.mark.slow
def test_a_run_that_goes_on_is_one_run(tmp_path: Path) -> None:
    session(tmp_path, "preempted", 10)
    _, first = stored(tmp_path)
    session(tmp_path, "done", 20)
    client, second = stored(tmp_path)
    assert (first.info.run_id, first.info.status) == (second.info.run_id, "KILLED")
    assert second.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(second.info.run_id, "train/loss")] == [10, 20]


@needs_mlflow
@pytest.mark.slow
def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    tracker = Mlflow(uri="sqlite:////dev/null/mlflow.db").build()
    with pytest.raises(ConfigError, match="cannot be used"):
        tracker.start(str(tmp_path), {})
