"""The threads that watch other ranks: none is left in a call of the store when its rank ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from dnntrain.distributed.failure import Failure
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.distributed.signed_store import SignedStore
from dnntrain.distributed.watchdog import Watchdog
from dnntrain.utils.world import World


def list_threads() -> list[str]:
    """The names of the live threads of watchdogs."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dnntrain_")]


def test_no_thread_outlives_a_watchdog_whose_store_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a thread returns while Python ends, and its process aborts with SIGABRT after a run that went well."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"ADDR": "127.0.0.1", "PORT": str(store.port)}.items():
        monkeypatch.setenv(f"MASTER_{name}", value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
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
