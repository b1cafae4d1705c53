"""A tracker that is slow, silent or broken neither slows nor ends a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dnntrain.errors import ConfigError
from dnntrain.run.background_tracker import BackgroundTracker
from dnntrain.utils.messages import record_messages


class SlowTracker:
    """Records its calls; waits for `gate` in each row."""

    def __init__(self, error_in: str = "", error: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self.gate = threading.Event()
        self.error_in, self.error = error_in, error

    def _call(self, name: str, value: Any) -> None:
        if name == self.error_in:
            assert self.error is not None
            raise self.error
        self.calls.append((name, value))

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        self._call("start", run_dir)

    def log_row(self, row: Mapping[str, Any]) -> None:
        self.gate.wait(60)
        self._call("row", row["step"])

    def close(self, result: Mapping[str, Any]) -> None:
        self._call("close", result["status"])


@pytest.fixture
def messages() -> Iterator[list[str]]:
    texts: list[str] = []
    with record_messages(texts.append):
        yield texts


def test_rows_arrive_in_order_and_all_before_the_end() -> None:
    slow = SlowTracker()
    slow.gate.set()
    tracker = BackgroundTracker(slow, 60)
    tracker.start("run", {})
    for step in range(50):
        tracker.log_row({"step": step})
    tracker.close({"status": "done"})
    assert slow.calls == [("start", "run"), *(("row", step) for step in range(50)), ("close", "done")]


def test_a_tracker_that_hangs_stops_neither_rows_nor_the_end(messages: list[str]) -> None:
    slow = SlowTracker()
    tracker = BackgroundTracker(slow, 0.2)
    tracker.start("run", {})
    start_s = time.monotonic()
    for step in range(100):
        tracker.log_row({"step": step})
    tracker.close({"status": "done"})
    assert time.monotonic() - start_s < 30  # the tracker itself waits for 60 s
    assert [text for text in messages if "did not take all rows" in text]
    slow.gate.set()


def test_a_wrong_setting_is_refused_at_the_start() -> None:
    tracker = BackgroundTracker(SlowTracker("start", ConfigError("track.mlflow.uri=x cannot be used")), 60)
    with pytest.raises(ConfigError, match="cannot be used"):
        tracker.start("run", {})
    tracker.close({"status": "failed"})


def test_a_tracker_that_fails_later_is_reported_once(messages: list[str]) -> None:
    slow = SlowTracker("row", OSError("the server is gone"))
    slow.gate.set()
    tracker = BackgroundTracker(slow, 60)
    tracker.start("run", {})
    for step in range(100):
        tracker.log_row({"step": step})
    tracker.close({"status": "done"})
    assert [text for text in messages if "the server is gone" in text] == [
        "warning: Slow failed, and the training continues without it: the server is gone"
    ]


def test_a_start_that_fails_late_is_reported_and_the_training_goes_its_way(messages: list[str]) -> None:
    class LateTracker(SlowTracker):
        def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
            self.gate.wait(60)
            raise OSError("timed out")

    late = LateTracker()
    tracker = BackgroundTracker(late, 0.1)
    tracker.start("run", {})
    late.gate.set()
    tracker._thread.join(60)
    tracker.log_row({"step": 1})
    tracker.close({"status": "done"})
    assert [text.removeprefix("warning: ") for text in messages] == [
        "Late did not answer for 0.1 s; the training starts without waiting",
        "Late failed, and the training continues without it: timed out",
    ]
