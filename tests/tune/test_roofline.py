"""The gain that a setting can reach at most, from the phases of a step: which settings are tried, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from waiting_transform import make_waiting_words

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.protocols.speed import SpeedGrade, SpeedSetting
from dnntrain.run.session import open_session
from dnntrain.tune.roofline import Roofline, measure_roofline
from dnntrain.tune.speed import SpeedRequest
from dnntrain.tune.speed_settings import has_effect
from dnntrain.tune.step_time import StepTime
from dnntrain.utils.world import World

#: A step of 100 ms: half of it passes, a quarter data, and the rest others.
STEP = StepTime(0.1, 32, {"data wait": 0.025, "forward": 0.02, "backward": 0.03, "optimizer": 0.015, "gaps": 0.01})
ROOFLINE = Roofline(STEP, passes_rate=0.5, bf16_factor=2.0, threads=1, workers=2)


@pytest.mark.parametrize(
    ("key", "value", "gain"),
    [
        ("data.num_workers", "4", 1 / 0.75),
        ("data.num_workers", "1", 1 / 0.75),
        ("data.pipeline", "resident", 1 / 0.75),
        ("augment.fast_crop.backend", "fused", 100.0),  # of a plug-in: nothing is known about it
        ("parallel.bucket_size_mb", "5", 1.0),  # nothing is sent
        ("precision", "bf16", 1 / 0.75),  # half of the passes
        ("train.compile", "on", 1 / 0.5),  # the rest, and half of the passes
        ("train.cpu_threads", "2", 1 / (1 - 0.75 / 2)),
    ],
)
def test_a_setting_gains_the_time_that_it_can_save(key: str, value: str, gain: float) -> None:
    assert ROOFLINE.predict_gain(key, value) == pytest.approx(gain)


def test_fewer_readers_leave_their_cores_to_the_passes_even_if_no_step_waits_for_data() -> None:
    busy = replace(ROOFLINE, step=StepTime(0.1, 32, {"forward": 0.04, "backward": 0.06}))
    gains = [busy.predict_gain("data.num_workers", value) for value in ("1", "4")]
    assert gains == [1.05, 1.0]


def test_the_settings_that_can_gain_the_most_are_tried_first_and_hopeless_ones_not() -> None:
    settings = [
        SpeedSetting("parallel.bucket_size_mb", SpeedGrade.ROUNDING, ("5", "100")),
        SpeedSetting("data.num_workers", SpeedGrade.BITWISE, ("4",)),
        SpeedSetting("train.compile", SpeedGrade.ROUNDING, ("on",)),
        SpeedSetting("precision", SpeedGrade.STATISTICAL, ("bf16",)),
    ]
    tried, left_out = ROOFLINE.order_attempts(settings)
    assert [attempt.text for attempt in tried] == ["train.compile=on", "data.num_workers=4", "precision=bf16"]
    assert tried[0].grade is SpeedGrade.ROUNDING
    assert left_out == [("parallel.bucket_size_mb=5", 1.0), ("parallel.bucket_size_mb=100", 1.0)]


def test_a_run_that_is_too_short_to_repay_compiling_is_not_compiled() -> None:
    settings = [SpeedSetting("train.compile", SpeedGrade.ROUNDING, ("on",))]
    # A step of 100 ms becomes twice as fast at most: 99 steps gain less than the five seconds of a compilation.
    assert ROOFLINE.order_attempts(settings, 99) == ([], [("train.compile=on", 1.0)])
    assert [attempt.text for attempt in ROOFLINE.order_attempts(settings, 101)[0]] == ["train.compile=on"]


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_bf16_is_not_tried_if_products_in_it_are_not_faster(factor: float) -> None:
    slow = replace(ROOFLINE, bf16_factor=factor)
    tried, left_out = slow.order_attempts([SpeedSetting("precision", SpeedGrade.STATISTICAL, ("bf16",))])
    assert (tried, left_out) == ([], [("precision=bf16", 1.0)])


@pytest.mark.parametrize(
    ("budget_s", "run_s", "seconds"),
    [(None, 60.0, 120.0), (None, 3000.0, 300.0), (None, 1e6, 600.0), (30.0, 1e6, 30.0)],
)
def test_a_search_may_take_two_minutes_or_a_tenth_of_the_run(
    budget_s: float | None, run_s: float, seconds: float
) -> None:
    assert SpeedRequest(("model=mlp",), budget_s=budget_s).choose_budget_s(run_s) == seconds


def test_data_in_memory_has_no_readers_to_choose() -> None:
    assert has_effect("data.num_workers=8", ["train.compile=on"])
    assert not has_effect("data.num_workers=8", ["data.pipeline=resident"])
    assert not has_effect("data.decode=fast", ["data.pipeline=resident"])


def test_the_limits_of_a_line_are_measured() -> None:
    words = ["data=digits", "model=mlp", "precision=fp32", "train.max_examples=100", "train.compile=off"]
    roofline = measure_roofline(open_session(decode_config(compose(words)), World()), 0.1, tries_bf16=True)
    assert roofline.step.seconds > 0
    assert roofline.passes_rate > 0
    assert roofline.bf16_factor > 0


@pytest.mark.slow
def test_slow_readers_that_deliver_together_are_seen_as_waiting_for_data(tmp_path: Path) -> None:
    """Four readers of 1.3 s for a batch: three of four steps have their batch ready."""
    words = ["data=digits", "model=mlp", *make_waiting_words(tmp_path, 0.04), "precision=fp32"]
    words += ["data.pipeline=streaming", "data.num_workers=4", "train.max_examples=900", "train.compile=off"]
    roofline = measure_roofline(open_session(decode_config(compose(words)), World()), 1.0, tries_bf16=False)
    assert roofline.step.get_share("data wait") > 0.5


@pytest.mark.slow
def test_few_steps_are_timed_if_a_step_takes_seconds(tmp_path: Path) -> None:
    """A step waits 1.6 s for its data: three first steps, and one with the clock."""
    count = tmp_path / "count"
    words = ["data=digits", "model=mlp", *make_waiting_words(tmp_path, 0.05, count), "precision=bf16"]
    words += ["data.pipeline=streaming", "data.num_workers=0", "train.max_examples=300", "train.compile=off"]
    roofline = measure_roofline(open_session(decode_config(compose(words)), World()), 1.0, tries_bf16=False)
    assert len(count.read_text()) == 4 * 32
    assert roofline.predict_gain("data.num_workers", "4") > 5
    assert roofline.bf16_factor == 1.0
