"""Reading processes need room in /dev/shm, and a wait for them ends at a signal."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError, Interrupted, Preempted
from dnntrain.input import shared_memory
from dnntrain.input.augment import NO_AUGMENTATION
from dnntrain.input.reader import Reader, Reply, Request
from dnntrain.input.source import ArraySource
from dnntrain.input.streaming import read_ahead
from dnntrain.run.doctor import run_checks
from dnntrain.training.progress import Progress
from dnntrain.training.stop_signals import StoppableBatches
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.stop_request import WaitStopped, clear_stop_request, request_stop
from dnntrain.utils.units import Duration


@pytest.fixture
def small_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB in /dev/shm, as far as dnntrain knows."""
    monkeypatch.setattr(shared_memory, "read_free_shared_bytes", lambda: 64 * 1024)


class SlowSource(ArraySource):
    """Images that take `seconds` each."""

    def __init__(self, seconds: float) -> None:
        super().__init__(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), np.zeros(8, np.int64), "slow")
        self.seconds = seconds

    def read(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().read(index)


def _read(source: ArraySource, workers: int = 1) -> Iterator[Reply]:
    reader = Reader(source, NO_AUGMENTATION, 0, False, candidates=None, training=False)
    requests = [Request(np.array([number]), np.array([number]), 0) for number in range(8)]
    return read_ahead(reader, requests, workers, "cpu", batch_bytes=16, grace_s=0.0)


def test_workers_need_two_batches_each_and_two_more() -> None:
    pages = 3 * 8 * 4096
    assert shared_memory.compute_shared_bytes(1000, 2) == 6 * 1000 + pages
    assert shared_memory.compute_shared_bytes(10**9, 0) == 0


def test_a_small_shared_memory_is_named_with_the_workers_that_fit(small_shared_memory: None) -> None:
    shared_memory.check_shared_memory(1000, 0)
    with pytest.raises(ConfigError, match=r"/dev/shm is too small: 4 reading processes need .*\n.*data.num_workers=0"):
        shared_memory.check_shared_memory(10**6, 4)
    with pytest.raises(ConfigError, match="of 2 ranks"):
        shared_memory.check_shared_memory(10**6, 4, ranks=2)


@pytest.mark.slow
def test_the_plan_refuses_workers_that_do_not_fit(
    small_shared_memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "data.pipeline=streaming", "model=mlp", "model.hidden=[4]"]
    assert main([*words, "data.num_workers=2"]) == 2
    text = capsys.readouterr().err
    assert "/dev/shm is too small: 2 reading processes" in text
    assert "use data.num_workers=0" in text
    assert main([*words, "data.num_workers=0"]) == 0


def test_doctor_looks_at_the_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnntrain.run.doctor.read_free_shared_bytes", lambda: 64 * 2**20)
    (check,) = [check for check in run_checks() if check.topic == "/dev/shm"]
    assert check.level == "note"
    assert "--shm-size" in check.text


def test_a_full_shared_memory_ends_the_read_instead_of_losing_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: torch.Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    with pytest.raises(CheckpointError, match="/dev/shm is full"):
        list(_read(SlowSource(0)))


def test_a_full_shared_memory_at_the_start_of_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(loader: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dnntrain.input.streaming.DataLoader.__iter__", fail)
    with pytest.raises(CheckpointError, match="/dev/shm is full"):
        list(_read(SlowSource(0)))


@pytest.mark.slow
def test_slow_workers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnntrain.input.streaming._POLL_S", 0.05)
    assert len(list(_read(SlowSource(0.1)))) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_a_wait_for_data_ends_at_a_signal(number: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnntrain.input.streaming._POLL_S", 0.05)
    timer = threading.Timer(0.2, request_stop, [number])
    timer.start()
    try:
        with pytest.raises(kind, match="stopped while waiting for data"):
            list(_read(SlowSource(600)))
    finally:
        timer.join()
        clear_stop_request()


def test_a_stopped_wait_for_a_step_ends_the_loop_between_steps() -> None:
    progress = Progress(Duration(3, "step"), EpochSchedule.constant(8, 4))

    class Waiting:
        def take(self, step: int) -> None:
            raise Preempted("stopped while waiting for data")

    batches = StoppableBatches(Waiting(), progress)  # type: ignore[arg-type]
    with pytest.raises(Preempted):
        batches.take(0)
    progress.signal = signal.SIGTERM
    with pytest.raises(WaitStopped):
        batches.take(0)
