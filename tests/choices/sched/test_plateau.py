"""sched=plateau is torch's ReduceLROnPlateau over another schedule, and its falls are written down."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import comparable, rows, trained
from stand_ins import context
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dnntrain.choices.sched.cosine import Cosine
from dnntrain.choices.sched.plateau import Plateau
from dnntrain.errors import ConfigError
from dnntrain.protocols import ScheduledParam, StepInfo

#: A fall at the second and each later evaluation, whatever comes: no value improves by that much.
FALLS = ("sched=plateau", "sched.patience=0", "sched.min_delta=1", "sched.lr_factor=0.5", "sched.base=linear")


def scales(knobs: Plateau, values: list[float]) -> list[float]:
    parts = knobs.build(context())
    (decision,) = parts.metric_callbacks
    scale = parts.scheduled_values[-1]
    assert scale.target is ScheduledParam.LEARNING_RATE
    found = []
    for value in values:
        decision({"split": "val", knobs.metric: value})
        found.append(scale.value(StepInfo(0, 0.0, 0.0)))
    return found


def torch_rates(values: list[float], **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, eps=0.0, **options)
    found = []
    for value in values:
        scheduler.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("knobs", "options"),
    [
        (Plateau(patience=2, lr_factor=0.5), {"patience": 2, "factor": 0.5}),
        (Plateau(patience=1, cooldown_evals=3), {"patience": 1, "cooldown": 3}),
        (Plateau(patience=0, lr_factor=0.3, min_factor=0.05), {"patience": 0, "factor": 0.3, "min_lr": 0.05}),
        (
            Plateau(patience=2, min_delta=0.05, min_delta_mode="absolute"),
            {"patience": 2, "threshold": 0.05, "threshold_mode": "abs"},
        ),
        (
            Plateau(patience=1, metric="accuracy", mode="max", min_delta=0.02),
            {"patience": 1, "mode": "max", "threshold": 0.02},
        ),
    ],
)
def test_the_scale_equals_torchs_reduce_lr_on_plateau(knobs: Plateau, options: dict[str, Any], seed: int) -> None:
    noise = np.random.default_rng(seed)
    values = [float(value) for value in np.abs(1 / np.sqrt(np.arange(1, 121)) + 0.2 * noise.standard_normal(120))]
    values[50] = math.nan
    assert scales(knobs, values) == pytest.approx(torch_rates(values, **options), rel=1e-12)


def test_the_base_schedule_goes_on_beneath() -> None:
    parts = Plateau(base="cosine:end_factor=0.2", patience=0).build(context())
    for value in (1.0, 2.0):
        parts.metric_callbacks[0]({"split": "val", "loss": value})
    moment = StepInfo(30, 3.0, 0.3)
    factor = math.prod(control.value(moment) for control in parts.scheduled_values)
    assert factor == pytest.approx(0.1 * Cosine(end_factor=0.2).make_factor(context())(moment))


def test_rows_of_training_are_not_looked_at() -> None:
    (decision,) = Plateau(patience=0).build(context()).metric_callbacks
    assert [decision({"split": "train", "loss": value}) for value in (1.0, 2.0, 3.0)] == [None] * 3


@pytest.mark.parametrize(
    ("knobs", "words"),
    [({"mode": "max"}, "sched.mode=min or auto"), ({"base": "plateau"}, "no curve of its own")],
)
def test_what_cannot_be_is_refused_with_the_fix(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plateau(**knobs).build(context())


@pytest.mark.slow
def test_each_fall_is_a_row_with_its_reason_and_the_rate_follows(tmp_path: Path) -> None:
    trained(tmp_path, *FALLS)
    events = [row for row in rows(tmp_path) if row["split"] == "event"]
    assert [(row["event"], row["step"], row["lr_scale"]) for row in events] == [
        ("plateau", 20, 0.5),
        ("plateau", 30, 0.25),
    ]
    assert "did not improve on" in events[0]["reason"]
    rates = {row["step"]: row["lr"] for row in rows(tmp_path) if row["split"] == "train"}
    # The row of step n has the rate that step number n - 1 was made with.
    assert rates[20] == pytest.approx(4e-3 * (1 - 19 / 30))
    assert rates[24] == pytest.approx(4e-3 * (1 - 23 / 30) * 0.5)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_scale_it_had(tmp_path: Path) -> None:
    often = (*FALLS, "checkpoint.every=1step", "checkpoint.keep_last=99")
    trained(tmp_path / "whole", *often)
    source = tmp_path / "whole" / "checkpoints" / "step-23"
    trained(tmp_path / "again", *often, f"resume={source}")
    whole = [row for row in comparable(tmp_path / "whole") if row["step"] > 23]
    assert comparable(tmp_path / "again")[-len(whole) :] == whole


@pytest.mark.parametrize("change", ["pruned", "masked"])
def test_a_pruned_network_has_its_own_best_value(change: str) -> None:
    parts = Plateau(patience=0, lr_factor=0.5).build(context())
    (decision,) = parts.metric_callbacks
    assert decision({"split": "val", "loss": 0.1}) is None
    decision({"split": "event", "event": change})
    assert [decision({"split": "val", "loss": loss}) for loss in (0.5, 0.4)] == [None, None]
    assert decision({"split": "val", "loss": 0.45}) is not None
