"""`dnntrain tune speed`: which settings are tried, and what counts as faster."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.run.session import open_session
from dnntrain.tune import speed_settings
from dnntrain.tune.probe import Probe, describe_probe, judge
from dnntrain.tune.speed import SpeedResult, make_evidence
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.tune.speed_worker import compare_times
from dnntrain.utils.world import World

FASTER: dict[str, Any] = {
    "ratio": [1.5, 1.4, 1.6],
    "step_s": [0.03, 0.02],
    "startup_s": 1.0,
    "losses": [[1.0, 0.5], [1.0, 0.5]],
}


def judge_with(grade: str = "rounding", total_steps: int | None = 1000, **changes: Any) -> Probe:
    return judge(Probe(("train.compile=on",), grade), {**FASTER, **changes}, total_steps)


def test_a_setting_is_faster_if_the_interval_excludes_one() -> None:
    assert judge_with().verdict == "faster"
    assert judge_with(ratio=[1.1, 0.99, 1.2]).verdict == "not faster"
    assert judge_with(ratio=[0.8, 0.7, 0.9]).verdict == "not faster"


@pytest.mark.parametrize(
    ("grade", "losses", "verdict"),
    [
        ("bitwise", [[1.0, 0.5], [1.0, 0.5 + 1e-9]], "other losses"),
        ("rounding", [[1.0, 0.5], [1.0, 0.5 + 1e-9]], "faster"),
        ("rounding", [[1.0, 0.5], [1.0, 0.501]], "other losses"),
        ("statistical", [[1.0, 0.5], [1.0, 0.501]], "faster"),
    ],
)
def test_the_first_losses_must_agree_as_the_grade_says(grade: str, losses: list[list[float]], verdict: str) -> None:
    assert judge_with(grade, losses=losses).verdict == verdict


def test_a_slow_start_must_pay_within_the_run() -> None:
    probe = judge_with(startup_s=30.0)
    assert probe.verdict == "starts too slowly: pays after 3000 steps, and this run has 1000"
    assert judge_with(startup_s=30.0, total_steps=5000).verdict == "faster"
    assert judge_with(startup_s=30.0, total_steps=None).verdict == "faster"
    assert "starts 30" in describe_probe(probe)


def test_a_larger_batch_saves_time_though_its_steps_are_longer() -> None:
    """Twice the examples in 1.25 times the time: 1.6 times as fast, 3/8 of the old time is saved."""
    larger = {"ratio": [1.6, 1.5, 1.7], "step_s": [0.04, 0.05], "startup_s": 3.0}
    assert judge_with("statistical", **larger).verdict == "faster"
    slow = judge_with("statistical", **{**larger, "startup_s": 30.0})
    assert slow.verdict == "starts too slowly: pays after 2000 steps, and this run has 1000"


def test_the_interval_of_a_ratio_may_be_looked_at_after_each_pair() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        old, new = np.exp(generator.normal(0.0, 0.1, (2, 40))).tolist()
        ratios = [compare_times(old[:count], new[:count], 1.0) for count in range(6, 41, 2)]
        wrong += any(not ratio.low <= 1.0 <= ratio.high for ratio in ratios)
    assert wrong <= 9  # 5 are expected at most; an interval for one number of pairs is wrong in about 20
    faster = compare_times([0.02, 0.021, 0.019, 0.0205, 0.02, 0.0195, 0.02], [0.01] * 7, 1.0)
    assert 1 < faster.low < faster.median < faster.high
    assert compare_times([0.01] * 6, [0.012] * 6, 2.0).median == pytest.approx(2 / 1.2)


def list_words(allow: SpeedGrade, *words: str) -> dict[str, tuple[str, ...]]:
    session = open_session(decode_config(compose(["train.max_examples=100", *words])), World())
    return {setting.key: setting.values for setting in list_speed_settings(session, allow)}


@pytest.mark.slow
def test_only_settings_with_an_effect_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_settings, "count_cores", lambda: 4)
    resident = list_words(SpeedGrade.ROUNDING, "model=mlp", "train.cpu_threads=2", "precision=fp32")
    assert resident == {
        "train.cpu_threads": ("1", "4"),
        "train.compile": ("on",),
        "train.micro_batch_size": ("16",),
    }
    streaming = list_words(SpeedGrade.BITWISE, "data.pipeline=streaming", "data.num_workers=2")
    assert streaming == {"data.num_workers": ("1", "4", "8")}
    assert list_words(SpeedGrade.STATISTICAL, "precision=fp32")["precision"] == ("bf16",)
    assert "train.channels_last" in list_words(SpeedGrade.ROUNDING, "model=small_cnn")
    assert "train.micro_batch_size" not in list_words(SpeedGrade.ROUNDING, "model=resnet20")  # batch norm


def test_the_line_has_the_settings_that_were_kept() -> None:
    result = SpeedResult(words=["train.cpu_threads=1", "train.compile=on"])
    assert make_evidence(result)["line"] == "train.cpu_threads=1 train.compile=on"


@pytest.mark.slow
def test_settings_are_measured_and_the_evidence_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data=digits", "model=mlp", "train.max_examples=320", "train.micro_batch_size=16", "precision=fp32"]
    assert main(["tune", "speed", *line, "--budget", "1", "--json", "-q", "--allow", "rounding"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["probes"]) + len(result["skipped"]) >= 2
    first = result["probes"][0]
    assert first["ratio"][1] <= first["ratio"][0] <= first["ratio"][2]
    assert first["verdict"] in ("faster", "not faster", "other losses")
