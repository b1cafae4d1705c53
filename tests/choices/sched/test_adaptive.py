"""sched=adaptive: the learning rate is the stated function of the validation loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from short_runs import rows, trained
from stand_ins import context

from dnntrain.choices.sched.adaptive import Adaptive, compute_scale
from dnntrain.protocols import StepInfo


@pytest.mark.parametrize(
    ("loss", "first", "floor", "power", "minimum", "scale"),
    [
        (2.0, 2.0, 0.0, 1.0, 0.0, 1.0),
        (0.5, 2.0, 0.0, 1.0, 0.0, 0.25),
        (0.5, 2.0, 0.0, 0.5, 0.0, 0.5),
        (1.25, 2.0, 1.0, 1.0, 0.0, 0.25),
        (0.01, 2.0, 0.0, 1.0, 0.1, 0.1),
        (3.0, 2.0, 0.0, 1.0, 0.0, 1.0),
        (0.9, 2.0, 1.0, 1.0, 0.05, 0.05),
    ],
)
def test_the_scale_is_the_part_of_the_first_loss_that_is_left(
    loss: float, first: float, floor: float, power: float, minimum: float, scale: float
) -> None:
    assert compute_scale(loss, first, floor, power, minimum) == pytest.approx(scale)


@pytest.mark.parametrize(("follow", "expected"), [("best", [1.0, 0.5, 0.5, 0.5]), ("last", [1.0, 0.5, 0.75, 0.75])])
def test_it_follows_the_best_loss_or_the_last_and_passes_over_what_is_not_finite(
    follow: str, expected: list[float]
) -> None:
    parts = Adaptive(follow=follow).build(context())  # type: ignore[arg-type]
    found = []
    for loss in (2.0, 1.0, 1.5, math.nan):
        parts.metric_callbacks[0]({"split": "val", "loss": loss})
        found.append(parts.scheduled_values[-1].value(StepInfo(0, 0.0, 0.0)))
    assert found == pytest.approx(expected)


def test_the_state_holds_all_that_the_next_scale_depends_on() -> None:
    first, second = Adaptive().build(context()), Adaptive().build(context())
    for loss in (2.0, 1.0):
        first.metric_callbacks[0]({"split": "val", "loss": loss})
    second.state["adaptive"].load_state_dict(first.state["adaptive"].state_dict())
    for parts in (first, second):
        parts.metric_callbacks[0]({"split": "val", "loss": 0.8})
    assert [parts.scheduled_values[-1].value(StepInfo(0, 0.0, 0.0)) for parts in (first, second)] == pytest.approx(
        [0.4, 0.4]
    )


@pytest.mark.slow
def test_a_run_writes_down_each_change_and_its_rate_is_the_function_of_the_loss(tmp_path: Path) -> None:
    trained(tmp_path, "sched=adaptive", "sched.base=constant", "sched.min_factor=0.0")
    found = rows(tmp_path)
    losses = [row["loss"] for row in found if row["split"] == "val"]
    (event,) = [row for row in found if row["split"] == "event" and row["step"] == 20]
    assert event["event"] == "adaptive"
    assert event["lr_scale"] == pytest.approx(losses[1] / losses[0])
    rates = {row["step"]: row["lr"] for row in found if row["split"] == "train"}
    assert rates[20] == pytest.approx(4e-3)
    assert rates[24] == pytest.approx(4e-3 * losses[1] / losses[0])
