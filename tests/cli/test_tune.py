"""`dnntrain tune`: what is suggested, that every layout suggests the same, and that nothing is left behind."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import context

from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.protocols import StepInfo
from dnntrain.run.scratch import build_scratch_trainer, run_scratch_training
from dnntrain.run.session import open_session
from dnntrain.training.loop import iterate_steps
from dnntrain.tune.batch_size import SizeTiming, compute_throughput, find_batch_size
from dnntrain.tune.batch_size import select_best_size as suggest_batch
from dnntrain.tune.lr_range import LrRangeSchedule, StopOnDivergence, format_rate_overrides, suggest_rate
from dnntrain.utils.world import World

Run = Callable[..., "subprocess.CompletedProcess[str]"]

RATES = np.logspace(-5, 1, 121)

#: A small real test; float32, so that layouts agree.
SMALL = ("train.max_examples=320", "precision=fp32", "--steps=40", "--lowest=1e-4", "augment.crop.padding=0")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def test_a_misspelled_word_of_its_own_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "lr", "stesp=10"]) == 2
    assert "did you mean --steps 10?" in capsys.readouterr().err


def fall(rates: np.ndarray, at: float, explodes_at: float) -> list[float]:
    """A loss that falls most steeply at the rate `at`, and explodes."""
    return list(2 - 1 / (1 + np.exp(-3 * np.log(rates / at))) + np.exp(np.log(rates / explodes_at)))


def test_the_suggestion_is_where_the_loss_falls_most_steeply() -> None:
    found = suggest_rate(RATES, fall(RATES, 1e-2, 30.0))
    assert found.rate == pytest.approx(1e-2, rel=0.1)


def test_besides_it_stands_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    losses = [abs(math.log10(rate) + 1) for rate in RATES]
    assert suggest_rate(RATES, losses).tenth_of_minimum == pytest.approx(0.01)


def test_a_fall_after_the_lowest_loss_is_that_of_an_explosion_and_not_suggested() -> None:
    losses = fall(RATES, 1e-3, 1e3)
    losses[110:] = [50.0, 40.0, 30.0, 20.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert suggest_rate(RATES, losses).rate == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(
    ("losses", "words"),
    [([1.0] * 5, "exploded after 5 steps"), (list(np.linspace(1, 2, 100)), "does not fall at any rate")],
)
def test_where_nothing_can_be_suggested_it_says_so(losses: list[float], words: str) -> None:
    with pytest.raises(DnntrainError, match=words):
        suggest_rate(RATES[: len(losses)], losses)


def test_the_rate_rises_exponentially_from_the_lowest_to_the_highest() -> None:
    test = LrRangeSchedule(1e-4, 1.0, 41)
    (control,) = test.build(context()).scheduled_values
    rates = [control.value(StepInfo(step, 0.0, 0.0)) * context().learning_rate for step in range(41)]
    assert rates == pytest.approx(list(np.logspace(-4, 0, 41)))


def test_the_test_ends_where_the_loss_explodes() -> None:
    explosion = StopOnDivergence()
    verdicts = [explosion({"split": "train", "loss": loss}) for loss in (2.0, 1.0, 1.5, 40.0)]
    assert [verdict is not None for verdict in verdicts] == [False, False, False, True]


def test_the_line_keeps_the_proportion_of_the_optimizers_rates() -> None:
    session = open_session(decode_config(compose(["optim=muon", "optim.lr=0.1", "optim.adam_lr=3e-3"])), World())
    assert format_rate_overrides(session, 0.05) == "optim.lr=0.05 optim.adam_lr=0.0015"


@pytest.mark.parametrize(("speeds", "size"), [([100, 200, 390, 400, 300], 32), ([400, 300], 8), ([100, 200, 300], 32)])
def test_the_smallest_batch_that_is_nearly_the_fastest_is_suggested(speeds: list[float], size: int) -> None:
    measured = [SizeTiming(8 * 2**number, float(speed), 0) for number, speed in enumerate(speeds)]
    assert suggest_batch(measured).microbatch == size


def test_a_step_that_was_held_up_does_not_count() -> None:
    assert compute_throughput([0.1, 0.1, 9.0], 32) == pytest.approx(320)


def test_sizes_end_where_the_estimate_is_above_the_memory_of_the_machine() -> None:
    session = open_session(decode_config(compose(["train.max_examples=320"])), World())
    small = replace(session, hardware=replace(session.hardware, memory_bytes=2**21))
    with pytest.raises(DnntrainError, match="not even the smallest"):
        find_batch_size(small, 8, 64, 1)


@pytest.mark.slow
def test_sizes_end_with_the_training_examples_and_the_line_names_all_ranks_together() -> None:
    session = open_session(decode_config(compose(["train.max_examples=40", "train.batch_size=16"])), World())
    found = find_batch_size(session, 16, 64, 1)
    assert [row["microbatch"] for row in found["rows"]] == [16, 32]
    assert found["ended"] == "the training split has 40 examples"
    assert found["line"] in ("train.batch_size=16", "train.batch_size=32")
    assert found["same_batch"] == "train.micro_batch_size=16"


@pytest.mark.slow
def test_a_warm_up_may_be_longer_than_the_measurement() -> None:
    words = ["train.max_examples=320", "train.duration=100step", "sched.warmup=30step", "sched.cooldown=50step"]
    session = open_session(decode_config(compose(words)), World())
    assert [row["microbatch"] for row in find_batch_size(session, 16, 16, 1)["rows"]] == [16]


@pytest.mark.slow
def test_sizes_end_with_a_batch_that_the_run_does_not_allow() -> None:
    """288 training examples are 18 steps of 16, but 9 steps of 32: the warm-up is as long."""
    words = ["train.max_examples=288", "train.duration=1ep", "sched.warmup=9step", "train.batch_size=16"]
    session = open_session(decode_config(compose(words)), World())
    found = find_batch_size(session, 16, 64, 1)
    assert [row["microbatch"] for row in found["rows"]] == [16]
    assert found["ended"].startswith("train.batch_size=32 does not fit the run: sched.warmup=9step is 9 steps")
    with pytest.raises(ConfigError, match=r"sched\.warmup=9step"):
        find_batch_size(session, 32, 64, 1)


@pytest.mark.slow
def test_a_scratch_trainer_has_a_row_for_each_of_the_first_steps_and_then_as_often_as_the_run() -> None:
    session = open_session(decode_config(compose(["train.max_examples=320", "log.every=5step"])), World())
    rows: list[Mapping[str, Any]] = []
    trainer = build_scratch_trainer(session, rows.append, first_rows=3)
    try:
        trainer.start_session()
        for _ in islice(iterate_steps(trainer.loop), 11):
            pass
    finally:
        trainer.close()
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 5, 10]


@pytest.mark.slow
def test_it_prints_the_line_to_use_next_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "lr", *SMALL]) == 0
    printed = capsys.readouterr()
    key, _, value = printed.out.strip().partition("=")
    assert key == "optim.lr"
    assert 1e-4 < float(value) < 10
    assert "steepest fall" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_trainer_without_a_folder_saves_nothing_and_leaves_the_working_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    session = open_session(decode_config(compose(["train.max_examples=64"])), World())
    run_scratch_training(session, 3, lambda row: None)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_two_ranks_suggest_what_one_process_suggests(layout: str, dnntrain: Run, tmp_path: Path) -> None:
    one, two = (
        json.loads(dnntrain("tune", "lr", *SMALL, "--json", *words).stdout)
        for words in ((), (f"+parallel={layout}", "launch.nproc=2"))
    )
    # Near the explosion any difference grows.
    assert two["losses"][:20] == pytest.approx(one["losses"][:20], rel=1e-5)
    assert (two["suggestion"], two["line"]) == (one["suggestion"], one["line"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refusal_of_the_ranks_is_told_with_its_fix(dnntrain: Run) -> None:
    done = dnntrain(
        "tune", "lr", "train.max_examples=320", "--lowest=100", "--highest=1e9", "+parallel=ddp", "launch.nproc=2"
    )
    assert done.returncode == 1
    assert "exploded after" in done.stderr
    assert "use a lower rate" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.slow
def test_two_ranks_measure_batches_together(dnntrain: Run) -> None:
    words = (
        "tune",
        "batch",
        "--largest=16",
        "--steps=2",
        "train.max_examples=64",
        "+parallel=ddp",
        "launch.nproc=2",
        "--json",
    )
    found = json.loads(dnntrain(*words).stdout)
    assert [row["microbatch"] for row in found["rows"]] == [8, 16]
    assert found["line"] in ("train.batch_size=16", "train.batch_size=32")
