"""The threads that watch other ranks: they report the first failure, and none is left when its rank ends."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dnntrain.distributed.failure import Failure
from dnntrain.distributed.process_identity import ProcessIdentity
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.distributed.signed_store import SignedStore
from dnntrain.distributed.watchdog import Watchdog
from dnntrain.utils.world import World


def list_threads() -> list[str]:
    """The names of the live threads of watchdogs."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dnntrain_")]


@pytest.mark.usefixtures("host")
def test_no_thread_outlives_a_watchdog_whose_store_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a thread returns while Python ends, and its process aborts with SIGABRT after a run that went well."""
    answering = threading.Event()
    set_at_once = SignedStore.set

    def set_slowly(store: SignedStore, key: str, value: bytes) -> None:
        if key.startswith("beat/"):
            answering.set()
            time.sleep(0.4)
        set_at_once(store, key, value)

    monkeypatch.setattr(SignedStore, "set", set_slowly)
    failures: list[Failure] = []
    rendezvous = Rendezvous.join(World(0, 1, 0, is_launched=True), timeout_s=20)
    watchdog = Watchdog(rendezvous, 60.0, tmp_path / "logs", failures.append)
    watchdog.start()
    assert answering.wait(20)
    assert len(list_threads()) == 2
    watchdog.close()
    assert list_threads() == []
    assert failures == []


def join_two() -> tuple[Rendezvous, Rendezvous]:
    """Let two ranks meet in this process."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: Rendezvous.join(World(rank, 2, rank, is_launched=True), 20.0), (0, 1))
    return first, second


@pytest.mark.slow
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("end", ["reports a failure", "is done", "is killed"])
def test_a_slow_rank_learns_why_the_other_one_ended(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank that is watched ends while the other one waits for an answer of the store."""
    first, second = join_two()
    is_slow, is_waiting, has_ended = threading.Event(), threading.Event(), threading.Event()
    set_at_once = SignedStore.set
    beats: list[bytes] = []

    def set_slowly(store: SignedStore, key: str, value: bytes) -> None:
        set_at_once(store, key, value)
        beats.append(value)
        if is_slow.is_set() and key == "beat/1":
            is_slow.clear()
            failed = store.check(["failure"])
            is_waiting.set()
            time.sleep(1.5)
            assert not failed

    failures: list[Failure] = []
    monkeypatch.setattr(SignedStore, "set", set_slowly)
    monkeypatch.setattr("dnntrain.distributed.watchdog._GRACE_S", {"hung": 0.1, "lost": 0.1})
    monkeypatch.setattr("dnntrain.distributed.watchdog.os._exit", lambda code: has_ended.set())
    with subprocess.Popen(["sleep", "600"]) as process:
        start_time = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        watched = replace(ProcessIdentity.of_this_process(), pid=process.pid, start_time=start_time)
        first.put("who/0", json.dumps(vars(watched)).encode())
        watchdog = Watchdog(second, 4.0, tmp_path / "logs", failures.append)
        watchdog.start()
        try:
            while len(beats) < 6:
                time.sleep(0.01)
            is_slow.set()
            assert is_waiting.wait(20)
            if end == "reports a failure":
                first.report_failure(Failure(0, "here", "hung", 1, "waited until the deadline"))
            if end == "is done":
                first.mark_done()
        finally:
            process.kill()
    assert has_ended.wait(3 if end == "is done" else 20) == (end != "is done")
    watchdog.close()
    expected = {"reports a failure": ["hung"], "is done": [], "is killed": ["lost"]}
    assert [failure.kind for failure in failures] == expected[end]
