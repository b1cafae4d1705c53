"""Real runs with a fault in one step: survived by the reaction that was asked for, alike on all ranks, and resumed bitwise."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from faults import install
from short_runs import broken_off, comparable, result, rows
from warm_process import WarmProcess

from dnntrain import train
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.errors import DivergedError, DnntrainError

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., "CompletedProcess[str]"]
Faulty = Callable[..., Path]

LINE = (
    "train.max_examples=320",
    "train.duration=4ep",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "augment.crop.padding=0",
    "optim.lr=4e-3",
    "checkpoint.every=5step",
    "checkpoint.keep_last=100",
    "monitor.loss_spike.window=10",
)
SPIKE = ("+reg=[fault]", "reg.fault.step=13", "monitor=[loss_spike]")
NAN = ("+reg=[fault]", "reg.fault.kind=gradient", "reg.fault.step=13", "monitor=[non_finite]")
#: A step of plain gradient descent on examples that are far too large, which kills most of a small network's units.
DEATH = (
    "+reg=[fault]",
    "reg.fault.step=13",
    "monitor=[dead_units]",
    "monitor.dead_units.action=rollback",
    "monitor.dead_units.every_steps=10",
    "monitor.dead_units.window=5",
    "monitor.dead_units.lr_factor=0.01",
    "model=mlp",
    "model.hidden=[32,32]",
    "optim=sgd",
    "optim.lr=0.05",
    "sched=constant",
)
DDP = ("parallel=ddp", "launch.nproc=2")


def line_of(*words: str) -> list[str]:
    """LINE and `words`, which replace it where they set the same."""
    given = {word.split("=")[0] for word in words}
    fitting = [word for word in LINE if not word.startswith("monitor.") or "monitor=[loss_spike]" in words]
    return [*(word for word in fitting if word.split("=")[0] not in given), *words]


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
        line = line_of(*words, f"run_dir={tmp_path / name}")
        if DDP[0] in words:
            done = dnntrain(*line, timeout_s=280, PYTHONPATH=f"{ROOT}:{site}")
            assert done.returncode == (error.exit_code if error else 0), done.stderr
        else:
            with pytest.raises(error) if error else nullcontext():
                train(*line, display="quiet")
        return tmp_path / name

    return run


def events(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if row["split"] == "event"]


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(folder) if row["split"] == "train"}


@pytest.mark.slow
def test_a_skipped_step_leaves_no_trace_but_its_event(faulty: Faulty) -> None:
    folder = faulty("run", *SPIKE)
    (event,) = events(folder)
    assert (event["event"], event["step"], event["alarm"]) == ("skip", 13, "loss_spike")
    assert 13 not in losses(folder)
    assert result(folder)["status"] == "done"
    assert result(folder)["value"] > 0.8


@pytest.mark.slow
def test_a_rollback_cuts_the_rate_leaves_the_examples_out_and_goes_on(faulty: Faulty) -> None:
    folder = faulty("run", *SPIKE, "monitor.loss_spike.action=rollback", "sched=constant")
    (event,) = events(folder)
    assert (event["event"], event["from_step"], event["step"], event["lr_factor"]) == ("rollback", 13, 10, 0.5)
    assert sorted(losses(folder)) == [step for step in range(1, 41) if step != 13]
    rates = {row["step"]: row["lr"] for row in rows(folder) if row["split"] == "train"}
    assert rates[10] == pytest.approx(4e-3)
    assert rates[11] == rates[40] == pytest.approx(2e-3)


def test_rollbacks_to_the_same_step_are_each_told_once_and_all_are_in_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("monitor=[non_finite]", "monitor.non_finite.action=rollback", "optim=sgd", "optim.lr=100")
    with pytest.raises(DivergedError):
        train(*line_of(*words, f"run_dir={tmp_path / 'run'}"), display="json")
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [row for row in shown if row.get("split") == "event"]
    kept = events(tmp_path / "run")
    assert len({row["step"] for row in kept}) < len(kept)
    assert [row["reason"] for row in told] == [row["reason"] for row in kept]
    assert {row["value"] for row in kept} <= {"inf", "nan"}


@pytest.mark.slow
@pytest.mark.parametrize("action", ["skip", "rollback"])
@pytest.mark.parametrize(
    "left", [pytest.param(10, marks=pytest.mark.slow), 15, pytest.param(25, marks=pytest.mark.slow)]
)
def test_a_run_that_is_broken_off_before_or_after_goes_on_bitwise(action: str, left: int, faulty: Faulty) -> None:
    words = (*SPIKE, f"monitor.loss_spike.action={action}")
    whole = faulty("whole", *words)
    again = whole.with_name("again")
    broken_off(whole, again, left)
    faulty("again", *words)
    assert comparable(again) == comparable(whole)
    assert result(again)["digest"] == result(whole)["digest"]


def test_a_gradient_that_is_not_finite_is_only_recorded_where_that_is_asked_for(faulty: Faulty) -> None:
    folder = faulty("run", *NAN, "monitor.non_finite.action=log", error=DivergedError)
    (event,) = events(folder)
    assert (event["event"], event["step"]) == ("non_finite", 13)
    assert sorted(losses(folder)) == list(range(1, 14))
    assert "the loss of step 14 is nan" in result(folder)["reason"]


@pytest.mark.slow
def test_where_units_die_the_run_goes_back_to_before_it_at_a_lower_rate(faulty: Faulty) -> None:
    folder = faulty("run", *DEATH, "eval.every=3step", "checkpoint.keep_last=1")
    (event,) = events(folder)
    assert (event["event"], event["from_step"], event["step"], event["alarm"]) == ("rollback", 20, 5, "dead_units")
    rates = {row["step"]: row["lr"] for row in rows(folder) if row["split"] == "train"}
    assert sorted(rates) == list(range(1, 41))
    assert rates[5] == pytest.approx(0.05)
    assert rates[6] == rates[40] == pytest.approx(0.0005)
    # The best state of before was no longer kept, and is not claimed.
    best = result(folder)["best_step"]
    assert best > 5
    assert (folder / "checkpoints" / "BEST").read_text().strip() == f"step-{best}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "left", [pytest.param(5, marks=pytest.mark.slow), 15, pytest.param(25, marks=pytest.mark.slow)]
)
def test_a_run_that_is_broken_off_after_it_went_back_for_dead_units_goes_on_bitwise(left: int, faulty: Faulty) -> None:
    whole = faulty("whole", *DEATH)
    again = whole.with_name("again")
    broken_off(whole, again, left)
    faulty("again", *DEATH)
    assert comparable(again) == comparable(whole)
    assert result(again)["digest"] == result(whole)["digest"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [(*SPIKE, "monitor.loss_spike.action=rollback"), DEATH], ids=["loss_spike", "dead_units"]
)
def test_a_run_that_is_killed_after_it_went_back_goes_on_bitwise(
    words: tuple[str, ...], dnntrain: Run, site: Path, tmp_path: Path
) -> None:
    line = line_of(*words, "train.duration=60ep", "checkpoint.every=20step", "checkpoint.keep_last=2")
    whole, killed, path = tmp_path / "whole", tmp_path / "killed", f"{ROOT}:{site}"
    assert dnntrain(*line, f"run_dir={whole}", PYTHONPATH=path).returncode == 0
    process = WarmProcess(("-q", *line, f"run_dir={killed}"), PYTHONPATH=path)
    file = killed / "metrics.jsonl"
    while process.poll() is None and not (file.exists() and '"rollback"' in file.read_text()):
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert dnntrain(*line, f"run_dir={killed}", PYTHONPATH=path).returncode == 0
    assert comparable(killed) == comparable(whole)
    assert result(killed)["digest"] == result(whole)["digest"]


@pytest.mark.slow
def test_what_lasts_ends_the_run_as_diverged(faulty: Faulty) -> None:
    lasting = "reg.fault.lasting=true"
    skipped = faulty("skipped", *SPIKE, lasting, "monitor.loss_spike.max_recoveries=2", error=DivergedError)
    assert [event["step"] for event in events(skipped)] == [13, 14, 15]
    assert "2 skipped steps in a row" in result(skipped)["reason"]
    back = faulty(
        "back",
        *SPIKE,
        lasting,
        "monitor.loss_spike.action=rollback",
        "monitor.loss_spike.max_recoveries=2",
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
def test_a_broken_gradient_on_one_rank_is_recorded_alike(faulty: Faulty) -> None:
    words = (*NAN, "monitor.non_finite.action=log", "train.batch_size=32")
    one = faulty("one", *words, error=DivergedError)
    two = faulty("two", *words, *DDP, "reg.fault.rank=1", error=DivergedError)
    (event,) = events(two)
    assert {key: event[key] for key in ("event", "step", "reason")} == {
        key: events(one)[0][key] for key in ("event", "step", "reason")
    }
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert result(two)["reason"] == result(one)["reason"]


@pytest.mark.slow
def test_units_that_the_examples_of_one_rank_kill_bring_all_ranks_back_and_that_resumes_bitwise(faulty: Faulty) -> None:
    one, two = faulty("one", *DEATH), faulty("two", *DEATH, *DDP)
    (event,) = events(two)
    assert (event["from_step"], event["step"], event["alarm"]) == (20, 5, "dead_units")
    assert event["reason"] == events(one)[0]["reason"]
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    again = two.with_name("again")
    broken_off(two, again, 25)
    faulty("again", *DEATH, *DDP)
    assert comparable(again) == comparable(two)
    assert result(again)["digest"] == result(two)["digest"]


@pytest.mark.slow
def test_what_powersgd_carries_over_is_after_a_step_that_is_left_out_what_it_was_before(faulty: Faulty) -> None:
    folder = faulty(
        "run",
        *("+reg=[fault]", "reg.fault.kind=pixels", "reg.fault.step=13", "monitor=[non_finite]"),
        *("model=mlp", "model.hidden=[32,32]", "checkpoint.every=1step", "train.duration=2ep"),
        *(*DDP, "parallel.grad_compression=powersgd"),
    )
    (event,) = events(folder)
    assert (event["event"], event["step"]) == ("skip", 13)
    assert sorted(losses(folder)) == [step for step in range(1, 21) if step != 13]
    before, after, later = (carried_over(folder, step) for step in (12, 13, 14))
    assert set(before) == {"p", "q", "error of rank 0", "error of rank 1"}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(tensor.isfinite().all() and not torch.equal(tensor, before[name]) for name, tensor in later.items())


def carried_over(folder: Path, step: int) -> dict[str, torch.Tensor]:
    state = read_checkpoint(folder / "checkpoints" / f"step-{step}").states["powersgd"]
    errors = {f"error of rank {rank}": of_buckets["0"] for rank, of_buckets in state["errors"].items()}
    return {"p": state["p"]["0"], "q": state["q"]["0"], **errors}


@pytest.mark.long
def test_examples_a_thousand_times_too_large_on_one_rank_are_survived_alike(faulty: Faulty) -> None:
    clean = faulty("clean", "monitor=[loss_spike]", *DDP)
    assert not events(clean)
    for action in ("skip", "rollback"):
        words = (*SPIKE, f"monitor.loss_spike.action={action}")
        one, two = faulty(f"one-{action}", *words), faulty(f"two-{action}", *words, *DDP)
        assert [event["step"] for event in events(two)] == [event["step"] for event in events(one)]
        assert losses(two) == pytest.approx(losses(one), rel=1e-5)
        assert result(two)["value"] == pytest.approx(result(clean)["value"], abs=0.03)
