"""track=tensorboard, read back with TensorBoard's own reader."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from dnntrain.choices.track import tensorboard as module
from dnntrain.choices.track._base import iterate_scalars
from dnntrain.choices.track.tensorboard import TensorBoard
from dnntrain.errors import ConfigError

pytest.importorskip("tensorboard")

TRAIN = {"epoch": 0.5, "examples": 64, "wall_s": 0.1, "split": "train", "loss": 0.5, "lr": 0.1, "examples_per_s": 640.0}
VAL = {"epoch": 1.0, "examples": 128, "wall_s": 0.2, "split": "val", "loss": 0.25, "accuracy": 0.875}


def written(run: Path, *rows: dict[str, Any]) -> Any:
    """Writes the rows in one session, and reads everything that the folder holds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard().build()
    tracker.start(str(run), {"seed": 0, "optim": {"lr": 0.1}})
    for row in rows:
        tracker.log_row(row)
    tracker.close({"status": "done"})
    return EventAccumulator(str(run / "tensorboard")).Reload()


@pytest.mark.slow
def test_every_number_is_a_scalar_by_step(tmp_path: Path) -> None:
    events = written(tmp_path, {"step": 10, **TRAIN}, {"step": 20, **TRAIN, "loss": 0.4}, {"step": 20, **VAL})
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/lr",
        "perf/examples_per_s",
        "val/loss",
        "val/accuracy",
    }
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.4)]
    assert [(event.step, event.value) for event in events.Scalars("val/accuracy")] == [(20, 0.875)]


def test_the_configuration_and_the_events_are_texts(tmp_path: Path) -> None:
    events = written(tmp_path, {"step": 5, "split": "event", "event": "stop", "reason": "enough"})
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "optim.lr: 0.1" in texts["config/text_summary"]
    assert texts["events/text_summary"] == "stop: enough"


def test_a_run_that_goes_on_shows_each_step_once(tmp_path: Path) -> None:
    written(tmp_path, *({"step": step, **TRAIN} for step in (10, 20, 30)))
    events = written(tmp_path, *({"step": step, **TRAIN} for step in (20, 30, 40)))
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30, 40]


def test_no_row_makes_no_file(tmp_path: Path) -> None:
    tracker = TensorBoard().build()
    tracker.start(str(tmp_path), {})
    tracker.close({"status": "failed"})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dnntrain\[track\]"'):
        TensorBoard().build()


def test_tags_follow_split_and_kind() -> None:
    row = {"step": 1, "split": "train", "loss": "nan", "examples_per_s": 5, "flag": True, "note": "text"}
    assert [tag for tag, _ in iterate_scalars(row)] == ["train/loss", "perf/examples_per_s"]
    assert not list(iterate_scalars({"step": 1, "split": "event", "event": "stop", "reason": "x"}))
    assert builtins.len(list(iterate_scalars({}))) == 0
