"""Every schedule equals torch's own scheduler at every step, or its formula where torch has none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from short_runs import comparable, rows, trained
from stand_ins import class_spec
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from dnntrain.choices.sched._base import Schedule
from dnntrain.choices.sched.constant import Constant
from dnntrain.choices.sched.cosine import Cosine
from dnntrain.choices.sched.cosine_restarts import CosineRestarts
from dnntrain.choices.sched.exponential import Exponential
from dnntrain.choices.sched.inverse_sqrt import InverseSqrt
from dnntrain.choices.sched.linear import Linear
from dnntrain.choices.sched.multistep import Multistep
from dnntrain.choices.sched.one_cycle import OneCycle
from dnntrain.choices.sched.polynomial import Polynomial
from dnntrain.choices.sched.sequence import SequenceSchedule
from dnntrain.choices.sched.step import Step
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.planning.curve_text import format_curve
from dnntrain.protocols import BuildContext, ScheduledParam, StepInfo
from dnntrain.run.session import open_session
from dnntrain.training.scheduled_values import bind_scheduled_values
from dnntrain.utils.units import Duration
from dnntrain.utils.world import World

TOTAL, PER_EPOCH = 200, 20

Make = Callable[[torch.optim.Optimizer], LRScheduler]


def context(total_steps: int = TOTAL) -> BuildContext:
    return BuildContext(0, class_spec(), PER_EPOCH, total_steps, 32, 1.0)


def factors(
    schedule: Schedule, target: ScheduledParam = ScheduledParam.LEARNING_RATE, total: int = TOTAL
) -> list[float]:
    parts = schedule.build(context(total))  # type: ignore[attr-defined]
    (control,) = [control for control in parts.scheduled_values if control.target is target]
    return [control.value(StepInfo(step, step / PER_EPOCH, step / total)) for step in range(total)]


def torch_factors(make: Make, key: str = "lr") -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for _ in range(TOTAL):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        if len(values) < TOTAL:
            scheduler.step()
    return values


def steps(length: int) -> Duration:
    return Duration(length, "step")


def percent(share: float) -> Duration:
    return Duration(share, "%")


#: name: (schedule, what torch has for it, or the formula as a LambdaLR)
TABLE: dict[str, tuple[Schedule, Make]] = {
    "constant": (Constant(factor=0.5), lambda o: ConstantLR(o, 0.5, TOTAL)),
    "linear": (Linear(end_factor=0.25), lambda o: LinearLR(o, 1.0, 0.25, TOTAL)),
    "linear_rising": (Linear(start_factor=0.1, end_factor=1.0), lambda o: LinearLR(o, 0.1, 1.0, TOTAL)),
    "exponential": (Exponential(step_size=steps(1), gamma=0.98), lambda o: ExponentialLR(o, 0.98)),
    "exponential_by_epoch": (
        Exponential(step_size=Duration(1, "ep"), gamma=0.5),
        lambda o: ExponentialLR(o, 0.5 ** (1 / PER_EPOCH)),
    ),
    "step": (Step(step_size=Duration(3, "ep"), gamma=0.5), lambda o: StepLR(o, 60, 0.5)),
    "multistep": (
        Multistep(milestones=(steps(30), Duration(5, "ep"), percent(90)), gamma=0.3),
        lambda o: MultiStepLR(o, [30, 100, 180], 0.3),
    ),
    "cosine": (Cosine(end_factor=0.1), lambda o: CosineAnnealingLR(o, TOTAL, 0.1)),
    "cosine_restarts": (
        CosineRestarts(t_0=percent(20), end_factor=0.05),
        lambda o: CosineAnnealingWarmRestarts(o, 40, 1, 0.05),
    ),
    "cosine_restarts_growing": (
        CosineRestarts(t_0=steps(7), t_mult=3.0),
        lambda o: CosineAnnealingWarmRestarts(o, 7, 3),
    ),
    "polynomial": (Polynomial(power=0.9), lambda o: PolynomialLR(o, TOTAL, 0.9)),
    "one_cycle": (OneCycle(), lambda o: OneCycleLR(o, 1.0, TOTAL)),
    "one_cycle_linear": (
        OneCycle(anneal="linear", pct_start=0.1, div_factor=10),
        lambda o: OneCycleLR(o, 1.0, TOTAL, pct_start=0.1, anneal_strategy="linear", div_factor=10),
    ),
    "inverse_sqrt": (
        InverseSqrt(timescale=steps(20), warmup=steps(20), warmup_start_factor=0.0),
        lambda o: LambdaLR(o, lambda step: step / 20 if step < 20 else math.sqrt(20 / step)),
    ),
    "warmup_cosine": (
        Cosine(warmup=percent(10), warmup_start_factor=0.2),
        lambda o: SequentialLR(o, [LinearLR(o, 0.2, 1.0, 20), CosineAnnealingLR(o, TOTAL - 20)], [20]),
    ),
    "wsd_linear": (
        Constant(warmup=steps(10), warmup_start_factor=0.1, cooldown=percent(25), cooldown_end_factor=0.2),
        lambda o: SequentialLR(
            o, [LinearLR(o, 0.1, 1.0, 10), ConstantLR(o, 1.0), LinearLR(o, 1.0, 0.2, 50)], [10, 150]
        ),
    ),
    "cooldown_cos": (
        Constant(cooldown=steps(50), cooldown_shape="cos"),
        lambda o: SequentialLR(o, [ConstantLR(o, 1.0), CosineAnnealingLR(o, 50)], [150]),
    ),
    "cooldown_sqrt_of_inverse_sqrt": (
        InverseSqrt(timescale=steps(10), cooldown=steps(40), cooldown_shape="sqrt"),
        lambda o: LambdaLR(
            o,
            lambda step: math.sqrt(10 / (10 + min(step, 160))) * (1 - math.sqrt(max(step - 160, 0) / 40)),
        ),
    ),
    "sequence": (
        SequenceSchedule(
            stages=(
                "linear:10%:start_factor=0.1:end_factor=1",
                "constant:30step",
                "step:2ep:step_size=1ep:gamma=0.5",
                "cosine",
            )
        ),
        lambda o: SequentialLR(
            o,
            [LinearLR(o, 0.1, 1.0, 20), ConstantLR(o, 1.0), StepLR(o, 20, 0.5), CosineAnnealingLR(o, 110)],
            [20, 50, 90],
        ),
    ),
    "sequence_after_warmup": (
        SequenceSchedule(warmup=steps(20), stages=("multistep:50%:milestones=30step/60step", "polynomial:50%:power=3")),
        lambda o: SequentialLR(
            o, [LinearLR(o, 0.1, 1.0, 20), MultiStepLR(o, [30, 60]), PolynomialLR(o, 90, 3.0)], [20, 110]
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_factor_equals_torchs_scheduler_at_every_step(name: str) -> None:
    schedule, make = TABLE[name]
    assert factors(schedule) == pytest.approx(torch_factors(make), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", TABLE)
def test_a_schedule_keeps_no_state_so_that_any_step_can_be_asked_for_first(name: str) -> None:
    schedule, _ = TABLE[name]
    in_order = factors(schedule)
    (control,) = schedule.build(context()).scheduled_values  # type: ignore[attr-defined]
    assert [control.value(StepInfo(step, 0.0, 0.0)) for step in reversed(range(TOTAL))] == in_order[::-1]


def test_wsd_is_a_constant_rate_between_a_rise_and_a_fall() -> None:
    schedule = decode_config(compose(["sched=wsd"])).sched
    expected = [min(0.1 + 0.9 * step / 10, 1.0) * (1 - math.sqrt(max(step - 160, 0) / 40)) for step in range(TOTAL)]
    assert factors(schedule) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "same_until"),
    [
        (Constant(warmup=steps(10), cooldown=steps(40)), 160),
        (InverseSqrt(timescale=steps(20)), TOTAL),
        (Step(step_size=steps(60)), TOTAL),
        (Exponential(step_size=steps(60)), TOTAL),
        (SequenceSchedule(stages=("cosine:50step", "constant")), TOTAL),
    ],
    ids=["wsd", "inverse_sqrt", "step", "exponential", "sequence"],
)
def test_a_longer_run_has_the_same_rates_where_nothing_is_counted_from_its_end(
    schedule: Schedule, same_until: int
) -> None:
    assert factors(schedule, total=3 * TOTAL)[:same_until] == factors(schedule)[:same_until]


def test_a_longer_cosine_is_the_cosine_of_the_longer_run() -> None:
    expected = [(1 + math.cos(math.pi * step / 300)) / 2 for step in range(300)]
    assert factors(Cosine(), total=300) == pytest.approx(expected, rel=1e-9)


def test_one_cycle_moves_the_momentum_as_torch_does() -> None:
    ours = factors(OneCycle(cycle_momentum=True), ScheduledParam.MOMENTUM)
    assert ours == pytest.approx(torch_factors(lambda o: OneCycleLR(o, 1.0, TOTAL), "momentum"), rel=1e-9)


def test_the_momentum_of_one_cycle_waits_for_the_warm_up() -> None:
    plain = factors(OneCycle(cycle_momentum=True), ScheduledParam.MOMENTUM, total=TOTAL - 30)
    warmed = factors(OneCycle(cycle_momentum=True, warmup=steps(30)), ScheduledParam.MOMENTUM)
    assert warmed == pytest.approx([0.95] * 30 + plain, rel=1e-12)


def test_the_warm_up_rises_to_where_the_curve_begins() -> None:
    plain = factors(OneCycle(), total=TOTAL - 10)
    expected = [plain[0] * (0.1 + 0.9 * step / 10) for step in range(10)] + plain
    assert factors(OneCycle(warmup=steps(10))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(warmup=percent(10), cooldown=percent(20), cooldown_end_factor=0.05),
        SequenceSchedule(stages=("linear:10%", "cosine")),
        Step(),
    ],
)
def test_a_run_by_time_follows_the_same_curve(schedule: Schedule) -> None:
    (control,) = schedule.build(context(total_steps=0)).scheduled_values  # type: ignore[attr-defined]
    by_time = [control.value(StepInfo(0, 0.0, (step + 1e-9) / TOTAL)) for step in range(TOTAL)]
    assert by_time == pytest.approx(factors(schedule), abs=1e-8)


@pytest.mark.parametrize(
    ("schedule", "total", "words"),
    [
        (Cosine(warmup=steps(200)), TOTAL, "shorten the warm-up"),
        (Cosine(cooldown=steps(201)), TOTAL, "shorten the cool-down"),
        (Cosine(warmup=percent(60), cooldown=percent(50)), TOTAL, "longer than the run together"),
        (Cosine(warmup=Duration(5, "s")), TOTAL, "in steps, epochs or percent"),
        (Cosine(warmup=steps(5)), 0, "in percent"),
        (Step(step_size=steps(0)), TOTAL, "at least 1step"),
        (Multistep(milestones=(steps(60), steps(30))), TOTAL, "must increase"),
        (SequenceSchedule(stages=("linear:50step", "cosine:100step")), TOTAL, "take 150 steps, but there are 200"),
        (SequenceSchedule(stages=("linear:150step", "cosine:100step")), TOTAL, "leave the duration of one stage out"),
        (SequenceSchedule(stages=("linear:200step", "cosine")), TOTAL, "leave the duration of one stage out"),
        (OneCycle(cycle_momentum=True, applies_to="momentum"), TOTAL, "both set the momentum"),
        (Cosine(applies_to=()), TOTAL, "must name at least one parameter"),
    ],
)
def test_a_length_that_cannot_be_is_refused_with_the_fix(schedule: Schedule, total: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schedule.build(context(total))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("cosin:10%", "did you mean 'cosine'"),
        ("cosine:10", "is not a duration"),
        ("cosine:10%:end_facter=1", "did you mean 'end_factor'"),
        ("cosine:10%:end_factor=-1", "at least 0"),
        ("cosine:10%:warmup=5%", "is not an option here"),
        ("sequence:10%", "a sequence cannot contain a sequence"),
        ("wsd:10%", "write constant with its options"),
    ],
)
def test_a_part_that_cannot_be_is_refused_with_the_fix(part: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SequenceSchedule(stages=(part, "linear"))


@pytest.mark.slow
def test_the_parts_of_a_sequence_are_checked_with_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"sched: sched.stages: linear:10%:ends=1: 'ends' is not an option here"):
        decode_config(compose(["sched=sequence", "sched.stages=['linear:10%:ends=1',cosine]"]))


@pytest.mark.parametrize(
    ("optimizer", "key", "first", "second"),
    [
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.1), "momentum", 0.8, 0.4),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.1), "weight_decay", 0.1, 0.05),
        (lambda p: torch.optim.AdamW(p, 0.1, betas=(0.8, 0.9)), "betas", (0.8, 0.9), (0.4, 0.9)),
    ],
)
def test_param_scales_what_the_optimizer_was_built_with(
    optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], key: str, first: object, second: object
) -> None:
    made = optimizer([torch.nn.Parameter(torch.zeros(1))])
    param = "weight_decay" if key == "weight_decay" else "momentum"
    parts = Linear(applies_to=param).build(context())  # type: ignore[arg-type]
    (setter,) = bind_scheduled_values(parts.scheduled_values, [made], torch.nn.Module())
    setter(StepInfo(0, 0.0, 0.0))
    assert made.param_groups[0][key] == pytest.approx(first)
    setter(StepInfo(100, 5.0, 0.5))
    assert made.param_groups[0][key] == pytest.approx(second)
    assert made.param_groups[0]["lr"] == 0.1


def test_param_scales_every_dropout_by_its_own_rate_and_several_parameters_alike() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Dropout(0.4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    parts = Linear(start_factor=0.0, end_factor=1.0, applies_to=("lr", "drop_rate")).build(context())
    for setter in bind_scheduled_values(parts.scheduled_values, [optimizer], model):
        setter(StepInfo(50, 2.5, 0.25))
    assert [module.p for module in model] == pytest.approx([0.05, 0.1])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("param", ["momentum", "weight_decay", "drop_rate"])
def test_a_parameter_that_nothing_has_is_refused(param: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    parts = Linear(applies_to=param).build(context())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing in this run has one above 0"):
        bind_scheduled_values(parts.scheduled_values, [optimizer], torch.nn.Linear(2, 2))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sched.applies_to=drop_rate",), "the drop rate is scheduled, but nothing in this run has one above 0"),
        (("optim=sgd", "optim.momentum=0", "sched.applies_to=momentum"), "the momentum is scheduled, but nothing"),
        (("optim=adafactor", "sched.applies_to=momentum"), "choose an optimizer that has it, as in optim=sgd"),
        (("optim=adafactor", "sched=one_cycle", "sched.cycle_momentum=true"), "sched.cycle_momentum=false"),
        (("optim.weight_decay=0", "sched.applies_to=[lr,weight_decay]"), "the weight decay is scheduled, but nothing"),
        (
            ("+reg=[dropout]", "reg.dropout.before_modules=*", "sched.applies_to=drop_rate", "train.compile=on"),
            "train.compile=off",
        ),
        (("sched.warmup=100ep",), "shorten the warm-up"),
        (("sched=plateau", "data.val_fraction=0"), "needs the validation split"),
        (("sched=sequence", "sched.stages=['linear:99ep']"), "leave the duration of one stage out"),
    ],
)
def test_a_schedule_without_effect_or_place_is_refused_before_a_folder_is_made(
    words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_session(decode_config(compose(words)), World())


@pytest.mark.slow
def test_the_plan_holds_and_draws_what_is_scheduled() -> None:
    words = ("sched=one_cycle", "sched.cycle_momentum=true", "sched.applies_to=[lr,weight_decay]", "optim.lr=0.5")
    plan = open_session(decode_config(compose([*words, "train.duration=100step"])), World()).plan
    assert list(plan.schedule) == ["lr", "weight_decay ×", "momentum"]
    assert plan.schedule["lr"][0] == pytest.approx(0.5 / 25)
    assert plan.schedule["lr"][-1] == pytest.approx(0.5 / 25e4)
    assert max(plan.schedule["lr"]) == pytest.approx(0.5, rel=0.01)
    assert dict(plan.format_rows())["lr"].endswith("0.02, 0.5 near step 30, 2e-06")


def test_a_curve_is_drawn_by_heights_between_its_first_and_last_value() -> None:
    assert format_curve([0.5, 1.0, 0.0, 0.25], 4) == "▅█▁▃ 0.5, 1 near step 1, 0 near step 2, 0.25"


@pytest.mark.slow
def test_a_run_that_was_made_longer_goes_on_as_the_longer_run_would_have(tmp_path: Path) -> None:
    wsd = (
        "sched=wsd",
        "sched.warmup=4step",
        "sched.cooldown=10step",
        "checkpoint.every=10step",
        "checkpoint.keep_last=9",
    )
    trained(tmp_path / "short", *wsd, "train.duration=30step")
    trained(tmp_path / "long", *wsd, "train.duration=50step")
    source = tmp_path / "short" / "checkpoints" / "step-20"
    trained(tmp_path / "again", *wsd, "train.duration=50step", f"resume={source}")
    rates = [(row["step"], row["loss"]) for row in comparable(tmp_path / "again") if row["split"] == "train"]
    long = [(row["step"], row["loss"]) for row in comparable(tmp_path / "long") if row["split"] == "train"]
    assert rates[-5:] == long[-5:]


@pytest.mark.slow
def test_what_is_scheduled_besides_the_rate_stands_in_the_rows_and_the_report(tmp_path: Path) -> None:
    words = (
        "optim=sgd",
        "optim.momentum=0.8",
        "optim.weight_decay=0.1",
        "+reg=[dropout]",
        "reg.dropout.probability=0.4",
    )
    curve = (
        "sched=linear",
        "sched.start_factor=1",
        "sched.end_factor=0.5",
        "sched.applies_to=[momentum,weight_decay,drop_rate]",
    )
    trained(tmp_path / "run", *words, *curve, "train.duration=8step", "log.every=2step", "log.report=true")
    found = [row for row in rows(tmp_path / "run") if row["split"] == "train"]
    factors = [1 - 0.5 * step / 8 for step in (1, 3, 5, 7)]
    assert [row["step"] for row in found] == [2, 4, 6, 8]
    for name, base in (("momentum", 0.8), ("weight_decay", 0.1), ("drop_rate", 0.4)):
        assert [row[name] for row in found] == pytest.approx([base * factor for factor in factors])
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Momentum", "Weight decay", "Drop rate"))
