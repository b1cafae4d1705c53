"""Start the ranks of a run: `python -m dnntrain.run.rank_agent RUN PARENT RANKS TIMEOUT_S MODULE START`.

Not for users. It hosts the store at which the ranks meet, on the loopback interface, and ends with
its parent process. If a rank fails, it stops the other ranks and writes how the first one ended to
logs/agent.json.

START is `fork` or `spawn`. Forked ranks share the memory of the modules, which are imported once, here.
A library of an accelerator does not survive a fork, so ranks on accelerators are spawned.
"""

from __future__ import annotations

import importlib
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnntrain.utils.early_exit import exit_at_once_on_signals, ignore_signals_until_exit
from dnntrain.utils.forked_process import ForkedProcess, fork_process
from dnntrain.utils.loopback import LOOPBACK_ADDRESS, listen_on_loopback
from dnntrain.utils.processes import AGENT_VARIABLE, die_with_parent, name_process
from dnntrain.utils.signals import blocked_signals, is_blocking_signals, signal_handlers, unblock_signals

_POLL_INTERVAL_S = 0.05

#: Modules that every rank imports; torch imports the last one at the first step of an optimizer.
_SHARED_MODULES = ("dnntrain.run.session", "dnntrain.run.train_part", "dnntrain.run.join_ranks", "torch._dynamo")

#: Seconds for ranks to end after a second signal, which they handle at once if they can.
_END_S = 5.0

#: Seconds for ranks to find out that another one has failed: more than their watchdog needs.
_CAUSE_S = 15.0


_Rank = subprocess.Popen[bytes] | ForkedProcess


def main() -> int:
    """Run the ranks; return the exit code of the rank that failed first. In a forked rank, return its own."""
    folder, parent, num_ranks, timeout_s, module, start = sys.argv[1:]
    die_with_parent(int(parent))
    received_signals: list[int] = []
    with signal_handlers(lambda number, frame: received_signals.append(number)):
        listener = listen_on_loopback()
        environ = _make_environ(listener.getsockname()[1], int(num_ranks))
        # Ranks handle signals once they have met.
        with blocked_signals():
            start_ranks = _fork_ranks if start == "fork" else _spawn_ranks
            ranks = start_ranks(module, folder, [_add_rank(environ, rank) for rank in range(int(num_ranks))])
        if ranks is not None:
            unblock_signals()
            # Spawned ranks load torch meanwhile; all wait for the store to answer.
            host = _StoreHost(listener)
            try:
                failures = _wait_for_ranks(ranks, received_signals, float(timeout_s), host)
            finally:
                _kill_ranks(ranks)
                host.join()
    if ranks is None:
        listener.close()
        return _run_rank(module, folder)
    if not failures:
        return 0
    rank, code = find_first_failure(failures)
    _write_failure(Path(folder), rank, ranks[rank].pid, code)
    return code if code > 0 else 1


def _run_rank(module: str, folder: str) -> int:
    """Do in this forked process what `python -m module folder` does."""
    exit_at_once_on_signals()
    sys.argv = [module, folder]
    exit_code: int = importlib.import_module(module).main()
    ignore_signals_until_exit()
    return exit_code


class _StoreHost(threading.Thread):
    """Import torch and host the store beside the main thread, which receives signals."""

    def __init__(self, listener: Any) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            from dnntrain.distributed.store import host_store

            self._store = host_store(self._listener)
        except Exception as error:
            self.error = error


def _make_environ(port: int, num_ranks: int) -> dict[str, str]:
    """Return the environment of all ranks: torchrun's variables, and a secret that the ranks share."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    return {
        **environ,
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": LOOPBACK_ADDRESS,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "DNNTRAIN_SECRET": secrets.token_hex(16),
        AGENT_VARIABLE: str(os.getpid()),
    }


def _add_rank(environ: Mapping[str, str], rank: int) -> dict[str, str]:
    return {**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _spawn_ranks(module: str, folder: str, environs: Sequence[Mapping[str, str]]) -> list[_Rank]:
    """Start each rank in a session of its own, so that it gets each signal once, from here."""
    command = [sys.executable, "-m", module, folder]
    return [
        subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True) for environ in environs
    ]


def _fork_ranks(module: str, folder: str, environs: Sequence[Mapping[str, str]]) -> list[_Rank] | None:
    """Import the modules, and fork the ranks; return None in a rank."""
    for name in (module, *_SHARED_MODULES):
        importlib.import_module(name)
    ranks: list[_Rank] = []
    for environ in environs:
        rank = fork_process(environ)
        if rank is None:
            name_process(f"dnn rank {environ['RANK']}")
            return None
        ranks.append(rank)
    return ranks


def _wait_for_ranks(
    ranks: Sequence[_Rank], received_signals: Sequence[int], timeout_s: float, host: _StoreHost
) -> dict[int, int]:
    """Wait until all ranks have ended; return the exit codes of those that failed first, by rank.

    Signals are passed on. After the first one, ranks have `timeout_s` to end; after a second one,
    some seconds. After a failure they find its cause and end by themselves; those that do not are
    asked to.
    """
    failures: dict[int, int] = {}
    num_forwarded, deadline, stop_time = 0, math.inf, math.inf
    while True:
        codes = [rank.poll() for rank in ranks]
        if not failures and (failures := {rank: code for rank, code in enumerate(codes) if code}):
            stop_time = time.monotonic() + _CAUSE_S
        if None not in codes:
            return failures
        if num_forwarded < len(received_signals):
            number = received_signals[num_forwarded]
            _send_signal(ranks, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
            num_forwarded += 1
            deadline = min(deadline, time.monotonic() + (timeout_s if num_forwarded == 1 else _END_S))
        if host.error is not None:
            raise host.error
        if time.monotonic() > stop_time:
            stop_time = math.inf
            deadline = min(deadline, time.monotonic() + timeout_s)
            _stop_ranks(ranks)
        if time.monotonic() > deadline:
            _kill_ranks(ranks)
        time.sleep(_POLL_INTERVAL_S)


def find_first_failure(failures: Mapping[int, int]) -> tuple[int, int]:
    """Return (rank, exit code) of the rank that is the cause among those seen at the same time.

    A rank killed by a signal other than SIGTERM, which the agent sends itself, comes first.
    """
    killed_ranks = {rank: code for rank, code in failures.items() if code < 0 and -code != signal.SIGTERM}
    return min((killed_ranks or failures).items())


def _send_signal(ranks: Sequence[_Rank], number: signal.Signals) -> None:
    for rank in ranks:
        rank.send_signal(number)


def _stop_ranks(ranks: Sequence[_Rank]) -> None:
    """Ask the remaining ranks to save and end; kill those that did not met, which save nothing."""
    _kill_ranks([rank for rank in ranks if is_blocking_signals(rank.pid)])
    _send_signal(ranks, signal.SIGTERM)


def _kill_ranks(ranks: Sequence[_Rank]) -> None:
    """Kill the remaining ranks with the processes that they started."""
    for rank in ranks:
        if rank.poll() is None:
            os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()


def _write_failure(folder: Path, rank: int, pid: int, code: int) -> None:
    from dnntrain.utils.files import make_folder
    from dnntrain.utils.json_files import write_json

    make_folder(folder / "logs")
    name = signal.Signals(-code).name if code < 0 else ""
    write_json(folder / "logs" / "agent.json", {"rank": rank, "pid": pid, "exit_code": code, "signal": name})


if __name__ == "__main__":
    sys.exit(main())
