"""A run is resumed with another batch size if its place in the epoch allows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import broken_off, comparable, result, rows, trained

from dnntrain.cli.main import main
from dnntrain.utils.epochs import EpochSchedule

#: 80 examples: 5 steps of 16 each epoch, or 10 of 8, or 4 of 20.
LINE = (
    "model=mlp",
    "model.hidden=[8]",
    "train.max_examples=80",
    "log.every=1step",
    "checkpoint.every=1step",
    "checkpoint.keep_last=100",
    "eval.every=1ep",
    "train.duration=3ep",
)


def cut(schedule: EpochSchedule, steps: int) -> list[tuple[int, int, int]]:
    """(epoch, first example, size) of each step."""
    places = []
    for step in range(steps):
        epoch, batch = schedule.locate_step(step)
        size = schedule.find_size_at(step)
        places.append((epoch, batch * size, size))
    return places


@pytest.mark.parametrize("step", [5, 7, 10])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_the_steps_after_a_change_take_the_rest_of_the_epoch(step: int, size: int) -> None:
    old = EpochSchedule.constant(80, 16)
    taken = step % 5 * 16
    if taken % size:
        with pytest.raises(ValueError, match=str(taken)):
            old.continue_with(size, step)
        return
    new = old.continue_with(size, step)
    assert cut(new, step) == cut(old, step)
    epoch, batch = old.locate_step(step)
    assert new.locate_step(step) == (epoch, batch * 16 // size)
    # Every example of every epoch is taken once, and a step more begins the next epoch.
    last = new.step_at(epoch + 2)
    places = [(e, first + i) for e, first, n in cut(new, last) for i in range(min(n, 80 - first))]
    assert places == [(e, i) for e in range(epoch + 2) for i in range(80)]
    assert new.locate_step(last) == (epoch + 2, 0)
    if 80 % size == 0:  # an epoch with a short last step counts its steps alike
        assert new.epoch_at(step) == pytest.approx(old.epoch_at(step))
    assert new.sizes == (size,)
    assert new.is_equal_until(old, step)
    assert not new.is_equal_until(old, step + 1)


def test_a_size_may_change_twice_within_an_epoch_and_back() -> None:
    first = EpochSchedule.constant(80, 16).continue_with(8, 6)  # 16 examples of epoch 1 are taken
    second = first.continue_with(16, 10)  # 4 more steps of 8: 48 are taken
    assert cut(second, 12)[5:] == [
        (1, 0, 16),
        (1, 16, 8),
        (1, 24, 8),
        (1, 32, 8),
        (1, 40, 8),
        (1, 48, 16),
        (1, 64, 16),
    ]
    assert second.locate_step(12) == (2, 0)
    # An earlier checkpoint forgets the changes after it.
    assert second.continue_with(16, 5) == EpochSchedule.constant(80, 16)
    assert second.continue_with(16, 0) == EpochSchedule.constant(80, 16)


@pytest.mark.slow
def test_a_run_is_resumed_with_another_batch_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    trained(whole, *LINE, "train.batch_size=16")
    broken_off(whole, run, 7)
    assert main(["resume", str(run), "train.batch_size=12", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert "the run has taken 32 examples of epoch 1 (step 7), which is not a multiple of 12" in message
    assert "use train.batch_size=8; or first resume with train.batch_size=16" in message
    assert "train.duration=10step to the end of the epoch" in message
    assert main(["resume", str(run), "train.batch_size=8", "--quiet"]) == 0
    steps = [row["step"] for row in rows(run) if row["split"] == "train"]
    # 7 steps of 16, then 48 examples and a whole epoch in steps of 8.
    assert steps == list(range(1, 7 + 6 + 10 + 1))
    assert result(run)["epochs"] == 3
    assert [row["step"] for row in rows(run) if row["split"] == "val"] == [5, 13, 23]
    assert comparable(run)[:7] == comparable(whole)[:7]
    # A run that is stopped after the change resumes to the same numbers.
    again = tmp_path / "again"
    broken_off(run, again, 9)
    assert main(["resume", str(again), "--quiet"]) == 0
    assert result(again)["digest"] == result(run)["digest"]
    assert comparable(again) == comparable(run)
