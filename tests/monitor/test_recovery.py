"""Real runs with a fault in one step: survived by the reaction that was asked for, alike on all ranks, and resumed bitwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from faults import install
from short_runs import broken_off, comparable, result, rows

from dnntrain import train
from dnntrain.errors import DivergedError, DnntrainError

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "CompletedProcess[str]"]
Faulty = Callable[..., Path]

LINE = (
    "train.limit=320",
    "train.duration=4ep",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "data.crop_padding=0",
    "optim.lr=4e-3",
    "checkpoint.every=5step",
    "checkpoint.keep=100",
    "monitor.loss_spike.window=10",
)
SPIKE = ("+reg=[fault]", "reg.fault.step=13", "monitor=[loss_spike]")
NAN = ("+reg=[fault]", "reg.fault.kind=gradient", "reg.fault.step=13", "monitor=[non_finite]")
DDP = ("parallel=ddp", "launch.nproc=2")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the plug-in is installed in."""
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    return folder


@pytest.fixture
def faulty(tmp_path: Path, dnntrain: Run, site: Path, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """A run with the plug-in, in this process or in those of a layout; its folder. `error` is what ends it."""
    monkeypatch.syspath_prepend(str(site))

    def run(name: str, *words: str, error: type[DnntrainError] | None = None) -> Path:
        line = [word for word in LINE if not word.startswith("monitor.") or "monitor=[loss_spike]" in words]
        line += [*words, f"run_dir={tmp_path / name}"]
        if DDP[0] in words:
            done = dnntrain(*line, timeout_s=280, PYTHONPATH=f"{ROOT}:{site}")
            assert done.returncode == 0, done.stderr
        else:
            with pytest.raises(error) if error else nullcontext():
                train(*line, display="quiet")
        return tmp_path / name

    return run


def events(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if row["split"] == "event"]


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(folder) if row["split"] == "train"}


def test_a_skipped_step_leaves_no_trace_but_its_event(faulty: Faulty) -> None:
    folder = faulty("run", *SPIKE)
    (event,) = events(folder)
    assert (event["event"], event["step"], event["alarm"]) == ("skip", 13, "loss_spike")
    assert 13 not in losses(folder)
    assert result(folder)["status"] == "done"
    assert result(folder)["value"] > 0.8


def test_a_rollback_cuts_the_rate_leaves_the_examples_out_and_goes_on(faulty: Faulty) -> None:
    folder = faulty("run", *SPIKE, "monitor.loss_spike.action=rollback", "sched=constant")
    (event,) = events(folder)
    assert (event["event"], event["from_step"], event["step"], event["lr_factor"]) == ("rollback", 13, 10, 0.5)
    assert sorted(losses(folder)) == [step for step in range(1, 41) if step != 13]
    rates = {row["step"]: row["lr"] for row in rows(folder) if row["split"] == "train"}
    assert rates[10] == pytest.approx(4e-3)
    assert rates[11] == rates[40] == pytest.approx(2e-3)


@pytest.mark.parametrize("action", ["skip", "rollback"])
@pytest.mark.parametrize("left", [10, 15, 25])
def test_a_run_that_is_broken_off_before_or_after_goes_on_bitwise(action: str, left: int, faulty: Faulty) -> None:
    words = (*SPIKE, f"monitor.loss_spike.action={action}")
    whole = faulty("whole", *words)
    again = whole.with_name("again")
    broken_off(whole, again, left)
    faulty("again", *words)
    assert comparable(again) == comparable(whole)
    assert result(again)["digest"] == result(whole)["digest"]


def test_what_lasts_ends_the_run_as_diverged(faulty: Faulty) -> None:
    lasting = "reg.fault.lasting=true"
    skipped = faulty("skipped", *SPIKE, lasting, "monitor.loss_spike.recoveries=2", error=DivergedError)
    assert [event["step"] for event in events(skipped)] == [13, 14, 15]
    assert "2 steps in a row" in result(skipped)["reason"]
    back = faulty(
        "back",
        *SPIKE,
        lasting,
        "monitor.loss_spike.action=rollback",
        "monitor.loss_spike.recoveries=2",
        error=DivergedError,
    )
    assert [event["from_step"] for event in events(back)] == [13, 14]
    assert "2 rollbacks" in result(back)["reason"]
    stopped = faulty("stopped", *NAN, "monitor.non_finite.action=stop", error=DivergedError)
    assert result(stopped)["status"] == "diverged"


@pytest.mark.slow
@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_one_broken_gradient_on_one_rank_is_left_out_by_all(action: str, faulty: Faulty) -> None:
    words = (*NAN, f"monitor.non_finite.action={action}", "train.batch_size=32")
    one = faulty("one", *words)
    two = faulty("two", *words, *DDP, "reg.fault.rank=1")
    (event,) = events(two)
    assert event["event"] == action
    assert {key: event[key] for key in ("step", "reason")} == {key: events(one)[0][key] for key in ("step", "reason")}
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert result(two)["value"] == result(one)["value"]
    assert result(one)["value"] == pytest.approx(result(faulty("clean", "train.batch_size=32"))["value"], abs=0.03)


@pytest.mark.slow
def test_examples_a_thousand_times_too_large_on_one_rank_are_survived_alike(faulty: Faulty) -> None:
    clean = faulty("clean", "monitor=[loss_spike]", *DDP)
    assert not events(clean)
    for action in ("skip", "rollback"):
        words = (*SPIKE, f"monitor.loss_spike.action={action}")
        one, two = faulty(f"one-{action}", *words), faulty(f"two-{action}", *words, *DDP)
        assert [event["step"] for event in events(two)] == [event["step"] for event in events(one)]
        assert losses(two) == pytest.approx(losses(one), rel=1e-5)
        assert result(two)["value"] == pytest.approx(result(clean)["value"], abs=0.03)
