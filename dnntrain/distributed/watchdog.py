"""Detect ranks that are dead, stopped or unreachable.

A blocked collective cannot detect them.

A thread of each rank increments a counter in the store and reads the counter of the next rank. If a
counter does not change for `launch.hang_timeout`, its rank counts as hung: all ranks write their
stacks and end with the same message. The training thread is not touched otherwise.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from torch.distributed import DistError

from dnntrain.distributed.failure import Failure
from dnntrain.distributed.process_identity import ProcessIdentity
from dnntrain.distributed.rendezvous import ANSWER_TIMEOUT_S, Rendezvous
from dnntrain.distributed.signed_store import SignedStore
from dnntrain.errors import RankError
from dnntrain.utils.files import make_folder, open_file, read_text

#: Requests the stacks of a rank's threads; differs from the signals that end a run.
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 1

#: Seconds within which the training thread must end by itself after a failure is known.
_GRACE_S = {"error": 10.0, "bug": 10.0, "lost": 6.0, "hung": 3.0}
#: Seconds after which a rank that is still ending is terminated.
_EXIT_TIMEOUT_S = 60.0

#: Seconds without an answer after which the store of the main rank counts as unreachable.
_LOST_CONTACT_S = 6.0

LOST_CONTACT_HINT = (
    "check the network and the node of rank 0, then start all nodes again to resume from the last checkpoint"
)


#: Seconds within which a continued process must write its stacks, and the interval between looks at the file.
_STACKS_TIMEOUT_S, _STACKS_POLL_S = 1.0, 0.005


class Watchdog:
    """Watches the ranks of `rendezvous` from `start` to `close`.

    timeout_s   seconds of silence after which a rank counts as hung
    folder      folder for the files of stacks
    on_failure  called in the thread of the watchdog just before it ends the process, if the training
                thread does not end by itself
    """

    def __init__(
        self, rendezvous: Rendezvous, timeout_s: float, folder: Path, on_failure: Callable[[Failure], None]
    ) -> None:
        self._rendezvous = rendezvous
        self._timeout_s = timeout_s
        self._folder = folder
        self._end = on_failure
        self._interval_s = min(max(timeout_s / 20, 0.1), 0.5)
        self._next = (rendezvous.world.rank + 1) % rendezvous.world.size
        self._closed = threading.Event()
        self._settling = threading.Event()
        self._contact_s = self._heard_s = time.monotonic()
        self._last_read_s = 0.0  # when the last complete look at the store began
        self._is_store_lost = False
        self._beat = ""
        self._neighbor: ProcessIdentity | None = None
        self._neighbor_left = False
        self._failure: Failure | None = None
        self._stacks: TextIO | None = None
        self._stacks_written = False
        self._failure_known = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads that send heartbeats and monitor the next rank."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self._folder)
        self._stacks = open_file(get_stacks_path(self._folder, self._rendezvous.world.rank), "w", encoding="utf-8")
        if hasattr(faulthandler, "register"):
            faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)
        for body in (self._send_heartbeats, self._monitor_neighbor):
            thread = threading.Thread(target=body, name=f"dnntrain{body.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def expect_exit(self) -> None:
        """Report that the training thread ends the run after an error."""
        self._settling.set()

    @property
    def lost_contact_message(self) -> str:
        """A message if the main rank's store does not answer; else empty."""
        silent_s = time.monotonic() - self._contact_s
        if self._failure_known or silent_s < min(self._timeout_s, _LOST_CONTACT_S):
            return ""
        rank, host = self._rendezvous.world.rank, socket.gethostname()
        return f"rank {rank} on {host} got no answer from the main rank's store for {silent_s:.0f} s"

    def write_stacks(self, error: BaseException | None = None) -> None:
        """Write the stacks of this rank's threads.

        The traceback of `error`, if there is one, comes first.

        Only the first call writes.
        """
        if self._stacks is None or self._stacks.closed or self._stacks_written:
            return
        self._stacks_written = True
        if error is not None:
            self._stacks.write("".join(traceback.format_exception(error)))
            self._stacks.flush()
        faulthandler.dump_traceback(self._stacks, all_threads=True)

    def close(self) -> None:
        """Stop watching, and report to the other ranks that this rank is done, not dead.

        A thread that returns from the store while Python ends would abort the process (SIGABRT), so the
        threads end first. One that waits for a broken link is left behind: it does not return.
        """
        self._closed.set()
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._stacks is not None:
            if hasattr(faulthandler, "unregister"):
                faulthandler.unregister(STACKS_SIGNAL)
            self._stacks.close()
            file = Path(self._stacks.name)
            if file.is_file() and not file.stat().st_size:
                file.unlink()
        self._rendezvous.mark_done()

    def _send_heartbeats(self) -> None:
        """Increment the counter of this rank and read the counter of the next rank.

        It may block forever over a broken link, which `_detect_failure` detects.
        """
        try:
            # A second connection, because a blocked call on one must not block the other.
            store = self._rendezvous.store.clone()
            rank = self._rendezvous.world.rank
            store.set(f"who/{rank}", json.dumps(vars(ProcessIdentity.of_this_process())).encode())
            count = 0
            while not self._closed.wait(self._interval_s):
                count += 1
                start_s = time.monotonic()
                store.set(f"beat/{rank}", b"%d" % count)
                if store.check(["failure"]):
                    self._failure_known = True
                    self._failure = Failure.from_bytes(store.get("failure"))
                    return
                self._read_neighbor(store)
                self._contact_s, self._last_read_s = time.monotonic(), start_s
        except (DistError, RuntimeError, OSError, RankError):
            self._is_store_lost = True

    def _read_neighbor(self, store: SignedStore) -> None:
        if self._neighbor is None:
            if not store.check([f"who/{self._next}"]):
                return
            self._neighbor = ProcessIdentity(**json.loads(store.get(f"who/{self._next}")))
        self._neighbor_left = store.check([f"done/{self._next}"])
        beat = store.get(f"beat/{self._next}").decode() if store.check([f"beat/{self._next}"]) else ""
        if beat != self._beat:
            self._beat, self._heard_s = beat, time.monotonic()

    def _monitor_neighbor(self) -> None:
        """Check the results of `_send_heartbeats`; only a failure is written to the store from here."""
        dead_since = 0.0
        last_check = time.monotonic()
        while not self._closed.wait(self._interval_s):
            now = time.monotonic()
            if now - last_check > 4 * self._interval_s + 1:
                # This process was stopped itself, so the time does not count as silence of others.
                self._contact_s = self._heard_s = now
            last_check = now
            if self._failure is None:
                is_dead = self._neighbor is not None and not self._neighbor_left and self._neighbor.state in "XZ"
                dead_since = (dead_since or time.monotonic()) if is_dead else 0.0
                detected = self._detect_failure(now, dead_since)
                # The other thread may have read a failure meanwhile.
                self._failure = detected or self._failure
            if self._failure is not None:
                self._end_run(self._failure)
                return

    def _detect_failure(self, now: float, dead_since: float) -> Failure | None:
        neighbor = f"rank {self._next} ({self._neighbor})"
        rank, host = self._rendezvous.world.rank, socket.gethostname()
        if now - self._contact_s > self._timeout_s:
            return Failure(rank, host, "lost", 1, self.lost_contact_message, LOST_CONTACT_HINT)
        # Before `_neighbor_left` is read: the other thread sets that first, and then the time of its look.
        is_dead = 0 < dead_since < now - 2 * self._interval_s and self._has_read_store_since(dead_since, now)
        if self._neighbor is None or self._neighbor_left:
            return None
        if is_dead:
            failure = Failure(self._next, self._neighbor.host, "lost", 1, f"{neighbor} has died")
            return self._rendezvous.report_failure(failure)
        if self._contact_s - self._heard_s > self._timeout_s:
            state = self._neighbor.state
            state_descriptions = {
                "T": "it is stopped (SIGSTOP)",
                "D": "it waits for a device",
                "?": "its node may be unreachable",
            }
            description = state_descriptions.get(state, f"its state is {state}")
            text = f"{neighbor} sent no heartbeat for {self._timeout_s:g} s: {description}"
            hint = f"stacks of all ranks: {self._folder}/stacks-rank_*.txt; the deadline is launch.hang_timeout"
            failure = self._rendezvous.report_failure(Failure(self._next, self._neighbor.host, "hung", 1, text, hint))
            self._kill_hung_process(self._neighbor)
            return failure
        return None

    def _has_read_store_since(self, start_s: float, now: float) -> bool:
        """Return whether a look at the store began after `start_s`; also if the store does not answer.

        A neighbor writes why it ends before it ends, and this process may be slow to read it.
        """
        return self._last_read_s > start_s or self._is_store_lost or now - self._contact_s > _LOST_CONTACT_S

    def _kill_hung_process(self, process: ProcessIdentity) -> None:
        """Make a hung process write its stacks, then kill it.

        A stopped process must be continued to write its stacks. It is killed at once after that, since
        it would train further or outlive its run.
        """
        stacks_path = get_stacks_path(self._folder, self._next)
        try:
            process.send_signal(STACKS_SIGNAL)
            process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + _STACKS_TIMEOUT_S
            while time.monotonic() < deadline and not (stacks_path.is_file() and stacks_path.stat().st_size):
                time.sleep(_STACKS_POLL_S)
            time.sleep(_STACKS_POLL_S)
            process.send_signal(signal.SIGKILL)
        except OSError:
            return

    def _end_run(self, failure: Failure) -> None:
        if failure.kind == "hung":
            self.write_stacks()
        self._settling.wait(_GRACE_S[failure.kind])
        if self._settling.is_set() and self._closed.wait(_EXIT_TIMEOUT_S):
            return
        try:
            self._end(failure)
        finally:
            os._exit(failure.exit_code)


def get_stacks_path(folder: Path, rank: int) -> Path:
    """Return the file for the stacks of a rank's threads."""
    return folder / f"stacks-rank_{rank}.txt"


def read_stacks(folder: Path) -> str:
    """Return the stacks of all ranks that wrote them, in the order of ranks."""
    files = sorted(folder.glob("stacks-rank_*.txt"), key=lambda file: (len(file.name), file.name))
    texts = [(file.stem.removeprefix("stacks-"), read_text(file, errors="replace")) for file in files]
    return "\n".join(f"--- {name}\n{text.rstrip()}" for name, text in texts if text.strip())
