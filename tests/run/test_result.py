"""The result of a run: the keys of result.json, in their order."""

from __future__ import annotations

from dnntrain.errors import ConfigError
from dnntrain.run.result import RunResult, TrainingFigures

FIGURES = TrainingFigures("c", "accuracy", 0.5, 8, None, 8, 2.0, 100.0, 1.5, 3.0, 4.0, 500.0, 600.0, 10, "d")


def test_a_result_is_read_back_as_it_was_written() -> None:
    result = RunResult("done", "runs/x", figures=FIGURES, test={"value": 0.4, "test_accuracy": 0.4}, export={"a": 1})
    values = result.as_json()
    assert list(values)[:3] == ["status", "run_dir", "config_digest"]
    assert list(values)[-4:] == ["digest", "value", "test_accuracy", "export"]
    assert RunResult.from_json(values, "runs/x") == result


def test_a_run_that_fails_keeps_its_figures_and_tells_the_error() -> None:
    values = RunResult("failed", "runs/x", figures=FIGURES).with_failure(ConfigError("no")).as_json()
    assert (values["status"], values["reason"], values["exit_code"], values["best"]) == ("refused", "no", 2, 0.5)
    assert list(values)[-1] == "exit_code"


def test_a_run_that_fails_before_training_has_the_error_alone() -> None:
    assert RunResult("failed", "runs/x").with_failure(RuntimeError("no")).as_json() == {
        "status": "failed",
        "run_dir": "runs/x",
        "reason": "RuntimeError: no",
        "exit_code": 1,
    }
