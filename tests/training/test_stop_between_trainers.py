"""A signal that arrives while one trainer hands over to the next one ends the run there, and the same line resumes it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from short_runs import EIGHT_STEPS, comparable, result

from dnntrain import train
from dnntrain.errors import Preempted
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.progress import Progress
from dnntrain.training.stop_signals import SignalWatch
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.signals import SignalReceived, raise_on_signals
from dnntrain.utils.units import Duration

SHORT = (*EIGHT_STEPS, "model.hidden=[16,16,16]", "checkpoint.background=false")

UNFREEZING = ('train.freeze=["layers.1.*"]', "train.unfreeze_at=4step")
PRUNING = ("prune=structured", "prune.at=50%")


@pytest.mark.slow
@pytest.mark.parametrize("words", [UNFREEZING, PRUNING], ids=["unfreeze", "cut"])
def test_a_signal_in_the_save_before_the_next_trainer_ends_the_run(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(*SHORT, *words, f"run_dir={tmp_path}/whole", display="quiet")

    def receive_signal(checkpointer: Checkpointer) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGTERM)

    # The wait is the last action of such a save.
    monkeypatch.setattr(Checkpointer, "wait", receive_signal)
    line = (*SHORT, *words, f"run_dir={tmp_path}/again")
    with pytest.raises(Preempted, match="stopped after step 4; saved"):
        train(*line, display="quiet")
    assert result(tmp_path / "again")["status"] == "preempted"
    assert train(*line, display="quiet")["digest"] == whole["digest"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("any_rank", [None, lambda flags: list(flags)], ids=["one process", "ranks"])
def test_a_signal_after_the_agreement_is_raised_again_when_the_watch_ends(any_rank: Any) -> None:
    progress = Progress(Duration.parse("1ep"), EpochSchedule.constant(8, 4))
    watch = SignalWatch(progress, any_rank)

    def hand_over() -> None:
        with watch:
            assert not watch.ends_run_at(1)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SignalReceived), raise_on_signals():
        hand_over()


def test_a_signal_that_ends_the_run_is_not_raised_again() -> None:
    progress = Progress(Duration.parse("1ep"), EpochSchedule.constant(8, 4))
    watch = SignalWatch(progress, lambda flags: list(flags))
    with raise_on_signals(), watch:
        signal.raise_signal(signal.SIGTERM)
        assert watch.ends_run_at(1)
    assert progress.signal == signal.SIGTERM
