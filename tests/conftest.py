"""Shared by all tests: the real command in real processes, and one small real run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Threads of tests on a shared machine wait for each other far longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes import the project: each would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from rank_pool import Pool
from short_runs import trained
from warm_process import run_warm

from dnntrain.utils import messages


def pytest_configure() -> None:
    """Keep the compiled tests of this process too; let the processes of tests be interrupted.

    A shell starts a job in the background with Ctrl-C ignored, and so would all processes that it starts.
    """
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Processes of a session: one for each core, four at most, since each may keep a pool of four ranks."""
    return min(4, os.cpu_count() or 1)


#: Parameter sets of a sampled test that the fast set runs.
_FAST_SAMPLES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what each set of tests leaves out, and put the files with the most slow tests first.

    A file stays in one process, and no other should wait for it at the end.
    """
    kinds: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        kinds[item.nodeid.partition("[")[0]].append(item)
    for kind in kinds.values():
        if kind[0].get_closest_marker("sampled"):
            fast = _choose_samples(len(kind), _FAST_SAMPLES)
            for index, item in enumerate(kind):
                if index not in fast:
                    item.add_marker("slow")
        slow_items = [item for item in kind if item.get_closest_marker("slow") and not item.get_closest_marker("long")]
        # The last one: the first is often the plain case, which other tests have too.
        for item in slow_items[:-1]:
            item.add_marker("long")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def _choose_samples(count: int, samples: int) -> set[int]:
    """Return `samples` indices of `count`, the first and the last among them, equally spaced."""
    return {round(index * (count - 1) / (samples - 1)) for index in range(samples)}


@pytest.fixture(autouse=True)
def forget_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is as the first in a process: no message was said before."""
    monkeypatch.setattr(messages, "_messages", {})
    monkeypatch.delenv("DNNTRAIN_MESSAGES", raising=False)


@pytest.fixture
def dnntrain(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in a process of its own, in the test's folder; one thread, so that tests leave a core to each other."""

    def run(*words: str, timeout_s: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_warm(words, tmp_path, timeout_s, **environ)

    return run


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished short run of the default network, made once."""
    path = tmp_path_factory.mktemp("short") / "run"
    trained(path)
    return path


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Rank processes that stay alive for the whole session; as many as the largest run so far needed."""
    pool = Pool()
    yield pool
    pool.close()
