"""A loss and metrics from the user's file: they replace and join those of another task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from own_code import write_mine

from dnntrain.choices.task.classification import Classification
from dnntrain.choices.task.custom import CustomTask
from dnntrain.choices.task.multilabel import Multilabel
from dnntrain.choices.task.regression import Regression
from dnntrain.config.fields import Arguments
from dnntrain.errors import PluginError
from dnntrain.protocols import Batch, InputSpec, Predictions, TargetSpec, Task, TaskFeature

SPEC = Classification().make_spec(InputSpec((1, 4, 4), (0.5,), (0.5,)), TargetSpec(("a", "b", "c")))
OUTPUTS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.5, 0.25], [1.0, 0.0, 3.0], [0.0, 2.0, 0.0]])
TARGETS = torch.tensor([0, 2, 2, 1])
BATCH = Batch(OUTPUTS, TARGETS, np.arange(4), np.arange(4))


@pytest.fixture
def task(tmp_path: Path) -> CustomTask:
    return CustomTask(
        file=str(write_mine(tmp_path)),
        loss="hinge",
        args=Arguments({"margin": 2.0}),
        metrics=("worst_recall",),
        metric="worst_recall",
    )


def test_the_loss_is_that_of_the_file(task: CustomTask) -> None:
    assert task.compute_losses(OUTPUTS, BATCH).tolist() == pytest.approx([1.0, 4.0, 0.0, 0.0])
    assert float(task.loss_sum(OUTPUTS, BATCH)) == pytest.approx(5.0)


def test_metrics_join_those_of_the_base(task: CustomTask) -> None:
    assert [info.name for info in task.list_infos()] == ["loss", "accuracy", "worst_recall"]
    predictions = Predictions(task.predict(OUTPUTS), TARGETS, torch.arange(4))
    summary = task.summarize(predictions, SPEC, 4, lambda number: {"name": str(number)})
    assert (summary["loss"], summary["accuracy"], summary["worst_recall"]) == (1.25, 0.75, 0.5)
    base = Classification().summarize(
        Predictions(Classification().predict(OUTPUTS), TARGETS, torch.arange(4)), SPEC, 4, lambda number: {}
    )
    assert summary["confusion"] == base["confusion"]
    assert summary["auroc"] == base["auroc"]


def test_without_a_loss_the_task_is_its_base(tmp_path: Path) -> None:
    task = CustomTask(
        file=str(write_mine(tmp_path)), metrics=("worst_recall",), base_args=Arguments({"class_weights": "balanced"})
    )
    base = Classification(class_weights="balanced")
    labels = np.array([0, 0, 1, 2])
    assert torch.equal(task.fit(SPEC, labels).loss_sum(OUTPUTS, BATCH), base.fit(SPEC, labels).loss_sum(OUTPUTS, BATCH))
    assert TaskFeature.SMOOTHABLE_TARGETS in task.features


def test_names_and_directions_need_no_code() -> None:
    task = CustomTask(file="gone.py", metrics=("price",), minimize=("price",))
    assert {info.name: info.higher_is_better for info in task.list_infos()}["price"] is False


def test_a_loss_that_takes_the_mean_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mean.py"
    file.write_text("def mean(outputs, targets):\n    return (outputs.sum(1) - targets).mean()\n")
    with pytest.raises(PluginError, match="must return the loss of each of the 4 examples"):
        CustomTask(file=str(file), loss="mean").compute_losses(OUTPUTS, BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs file, and loss or metrics"),
        ({"file": "a.py", "metrics": ("accuracy",)}, "has a metric of this name"),
        ({"file": "a.py", "metrics": ("x",), "minimize": ("y",)}, "minimize=y must be one of metrics"),
        ({"file": "a.py", "metrics": ("x",), "args": Arguments({"a": 1})}, "args has no effect without loss"),
        ({"file": "a.py", "loss": "x", "base_args": Arguments({"los": "bce"})}, "base_args: "),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CustomTask(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [Classification, Multilabel, Regression])
def test_the_task_passes_on_all_that_its_base_defines(base: type[Task], tmp_path: Path) -> None:
    """A method that is left out would answer as a task without classes or labels."""
    methods = {
        name
        for name, value in vars(base).items()
        if name in dir(Task) and not name.startswith("_") and (callable(value) or isinstance(value, property))
    }
    assert methods - set(vars(CustomTask)) == set()
    name = base.__name__.lower()
    task = CustomTask(base=name, file=str(write_mine(tmp_path)), metrics=("worst_recall",))  # type: ignore[arg-type]
    probabilities, expected = task.compute_probabilities(OUTPUTS), base().compute_probabilities(OUTPUTS)
    assert (probabilities is None) == (expected is None) == (base is Regression)
    assert expected is None or torch.equal(probabilities, expected)
