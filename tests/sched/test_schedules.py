"""Every schedule equals torch's own scheduler at every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, Moment, Target
from dnntrain.sched.constant import Constant
from dnntrain.sched.cosine import Cosine
from dnntrain.sched.linear import Linear
from dnntrain.sched.one_cycle import OneCycle
from dnntrain.sched.schedule import Schedule
from dnntrain.sched.step import Step
from dnntrain.units import Duration

TOTAL, PER_EPOCH = 200, 20


def context(total_steps: int = TOTAL) -> Context:
    return Context(0, 10, (1, 8, 8), PER_EPOCH, total_steps, 32, 1.0)


def factors(schedule: Schedule, target: Target = Target.LEARNING_RATE, total: int = TOTAL) -> list[float]:
    parts = schedule.build(context(total))  # type: ignore[attr-defined]
    (control,) = [control for control in parts.controls if control.target is target]
    return [control.value(Moment(step, step / PER_EPOCH, step / total)) for step in range(total)]


def torch_factors(make: Callable[[torch.optim.Optimizer], LRScheduler], key: str = "lr") -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for _ in range(TOTAL):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        if len(values) < TOTAL:
            scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Constant(), lambda o: ConstantLR(o, 1.0)),
        (Linear(end=0.25), lambda o: LinearLR(o, 1.0, 0.25, TOTAL)),
        (Cosine(end=0.1), lambda o: CosineAnnealingLR(o, TOTAL, 0.1)),
        (Step(every=Duration(3, "ep"), gamma=0.5), lambda o: StepLR(o, 60, 0.5)),
        (OneCycle(), lambda o: OneCycleLR(o, 1.0, TOTAL)),
        (
            OneCycle(anneal="linear", rise=0.1, div_factor=10),
            lambda o: OneCycleLR(o, 1.0, TOTAL, pct_start=0.1, anneal_strategy="linear", div_factor=10),
        ),
        (
            Cosine(warmup=Duration(10, "%"), warmup_from=0.2),
            lambda o: SequentialLR(o, [LinearLR(o, 0.2, 1.0, 20), CosineAnnealingLR(o, TOTAL - 20)], [20]),
        ),
    ],
    ids=["constant", "linear", "cosine", "step", "one_cycle", "one_cycle_linear", "warmup_cosine"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_factor_equals_torchs_scheduler_at_every_step(
    schedule: Schedule, make: Callable[[torch.optim.Optimizer], LRScheduler]
) -> None:
    assert factors(schedule) == pytest.approx(torch_factors(make), abs=1e-9)


def test_one_cycle_moves_the_momentum_as_torch_does() -> None:
    ours = factors(OneCycle(cycle_momentum=True), Target.MOMENTUM)
    assert ours == pytest.approx(torch_factors(lambda o: OneCycleLR(o, 1.0, TOTAL), "momentum"), abs=1e-9)


def test_a_run_by_time_follows_the_same_curve() -> None:
    (control,) = Cosine(warmup=Duration(10, "%")).build(context(total_steps=0)).controls
    by_time = [control.value(Moment(0, 0.0, step / TOTAL)) for step in range(TOTAL)]
    assert by_time == pytest.approx(factors(Cosine(warmup=Duration(10, "%"))), abs=1e-9)


@pytest.mark.parametrize(
    ("schedule", "total", "words"),
    [
        (Cosine(warmup=Duration(200, "step")), TOTAL, "shorten the warm-up"),
        (Cosine(warmup=Duration(5, "s")), TOTAL, "in steps, epochs or percent"),
        (Cosine(warmup=Duration(5, "step")), 0, "in percent"),
        (Step(every=Duration(0, "step")), TOTAL, "at least 1step"),
    ],
)
def test_a_length_that_cannot_be_is_refused_with_the_fix(schedule: Schedule, total: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schedule.build(context(total))  # type: ignore[attr-defined]
