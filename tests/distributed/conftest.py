"""The store at which ranks meet."""

from __future__ import annotations

import pytest
from torch.distributed import TCPStore


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store that an agent would host, and the environment in which its ranks find it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return store
