"""A thread of every rank that notices what a blocked collective cannot: a rank that is dead, stopped or out of reach.

Each rank counts aloud in the store and listens to the next one. A rank that is silent for the deadline is declared hung, its stack and
those of all others are written, and all ranks end with one message. Nothing of it touches the training thread while all is well.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from torch.distributed import DistError
from torch.distributed.distributed_c10d import Store

from dnntrain.distributed.rendezvous import Failure, Rendezvous

#: Asks a rank for the stacks of its threads; none of the signals that end a run.
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 1

#: Seconds that the training thread has to end by itself once a failure is known.
_GRACE_S = {"error": 10.0, "bug": 10.0, "lost": 6.0, "hung": 3.0}
#: Seconds after which a rank that is ending, but does not end, is ended.
_EXIT_TIMEOUT_S = 60.0


#: Seconds of silence after which the store of the main rank counts as out of reach.
_LOST_CONTACT_S = 6.0

LOST_CONTACT_HINT = (
    "is the network up, and the node of rank 0? start both sides again to go on from the last checkpoint"
)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, so that no other one of the same number is taken for it.

    `started` is the kernel's start time of it, `place` the running kernel and the space that process numbers belong to.
    """

    host: str
    pid_namespace: str
    pid: int
    start_time: str

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        return cls(socket.gethostname(), _read_pid_namespace(), os.getpid(), _read_process_stat(os.getpid())[1])

    @property
    def state(self) -> str:
        """The kernel's letter for what the process does: R, S, D, T (stopped), Z; X where it is gone; ? on another host."""
        if self.pid_namespace != _read_pid_namespace() or not self.start_time:
            return "?"
        state, start_time = _read_process_stat(self.pid)
        return state if start_time == self.start_time else "X"

    def send_signal(self, signal_number: int) -> None:
        """Sends a signal, where it still is the process."""
        if self.state not in "?XZ":
            os.kill(self.pid, signal_number)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


#: How long a process that is let go on has to write its stacks, and how often the file is looked at.
_STACKS_TIMEOUT_S, _STACKS_POLL_S = 1.0, 0.005


class Watchdog:
    """Watches over the ranks of `meeting` from `start` to `close`.

    `timeout_s` is the deadline of a silent rank. Stacks go to `folder`. Where the training thread does not end by itself,
    `end(failure)` is called in the thread of the watch, just before the process is ended.
    """

    def __init__(
        self, rendezvous: Rendezvous, timeout_s: float, folder: Path, on_failure: Callable[[Failure], None]
    ) -> None:
        self._meeting = rendezvous
        self._timeout_s = timeout_s
        self._folder = folder
        self._end = on_failure
        self._interval_s = min(max(timeout_s / 20, 0.1), 0.5)
        self._next = (rendezvous.world.rank + 1) % rendezvous.world.size
        self._closed = threading.Event()
        self._settling = threading.Event()
        self._contact_s = self._heard_s = time.monotonic()
        self._beat = ""
        self._neighbour: ProcessIdentity | None = None
        self._neighbour_left = False
        self._failure: Failure | None = None
        self._stacks: TextIO | None = None
        self._stacks_written = False
        self._told = False

    def start(self) -> None:
        """Begins to speak and to listen."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks = get_stacks_path(self._folder, self._meeting.world.rank).open("w", encoding="utf-8")
        if hasattr(faulthandler, "register"):
            faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)
        for body in (self._send_heartbeats, self._monitor_neighbor):
            threading.Thread(target=body, name=f"dnntrain{body.__name__}", daemon=True).start()

    def expect_exit(self) -> None:
        """The training thread has met an error and ends the run itself."""
        self._settling.set()

    @property
    def lost_contact_message(self) -> str:
        """Where the main rank's store has not answered for some seconds: a sentence that says so; else empty."""
        silent_s = time.monotonic() - self._contact_s
        if self._told or silent_s < min(self._timeout_s, _LOST_CONTACT_S):
            return ""
        rank, host = self._meeting.world.rank, socket.gethostname()
        return f"rank {rank} on {host} has lost touch with the main rank's store for {silent_s:.0f} s"

    def write_stacks(self, error: BaseException | None = None) -> None:
        """Writes the stacks of this rank's threads, and before them where `error` was met; once."""
        if self._stacks is None or self._stacks.closed or self._stacks_written:
            return
        self._stacks_written = True
        if error is not None:
            self._stacks.write("".join(traceback.format_exception(error)))
            self._stacks.flush()
        faulthandler.dump_traceback(self._stacks, all_threads=True)

    def close(self) -> None:
        """Ends the watch. The others are told that this rank is done, not dead."""
        self._closed.set()
        if self._stacks is not None:
            if hasattr(faulthandler, "unregister"):
                faulthandler.unregister(STACKS_SIGNAL)
            self._stacks.close()
            file = Path(self._stacks.name)
            if file.is_file() and not file.stat().st_size:
                file.unlink()
        self._meeting.mark_done()

    def _send_heartbeats(self) -> None:
        """Counts, and listens to the next rank. May block for good where a link is cut; `_judge` sees that."""
        try:
            # A connection of one's own: a blocked call on one must not block the other.
            store = self._meeting.store.clone()
            rank = self._meeting.world.rank
            store.set(f"who/{rank}", json.dumps(vars(ProcessIdentity.of_this_process())))
            count = 0
            while not self._closed.wait(self._interval_s):
                count += 1
                store.set(f"beat/{rank}", str(count))
                if store.check(["failure"]):
                    self._told = True
                    self._failure = Failure.from_bytes(store.get("failure"))
                    return
                self._read_neighbor(store)
                self._contact_s = time.monotonic()
        except (DistError, RuntimeError, OSError):
            return

    def _read_neighbor(self, store: Store) -> None:
        if self._neighbour is None:
            if not store.check([f"who/{self._next}"]):
                return
            self._neighbour = ProcessIdentity(**json.loads(store.get(f"who/{self._next}")))
        self._neighbour_left = store.check([f"done/{self._next}"])
        beat = store.get(f"beat/{self._next}").decode() if store.check([f"beat/{self._next}"]) else ""
        if beat != self._beat:
            self._beat, self._heard_s = beat, time.monotonic()

    def _monitor_neighbor(self) -> None:
        """Looks at what `_speak` heard; touches no socket."""
        dead_since = 0.0
        last_check = time.monotonic()
        while not self._closed.wait(self._interval_s):
            now = time.monotonic()
            if now - last_check > 4 * self._interval_s + 1:
                # This process itself was stopped: the others' silence was its own.
                self._contact_s = self._heard_s = now
            last_check = now
            if self._failure is None:
                is_dead = self._neighbour is not None and not self._neighbour_left and self._neighbour.state in "XZ"
                dead_since = (dead_since or now) if is_dead else 0.0
                self._failure = self._detect_failure(now, dead_since)
            if self._failure is not None:
                self._end_run(self._failure)
                return

    def _detect_failure(self, now: float, dead_since: float) -> Failure | None:
        neighbor = f"rank {self._next} ({self._neighbour})"
        rank, host = self._meeting.world.rank, socket.gethostname()
        if now - self._contact_s > self._timeout_s:
            return Failure(rank, host, "lost", 1, self.lost_contact_message, LOST_CONTACT_HINT)
        if self._neighbour is None or self._neighbour_left:
            return None
        if dead_since and now - dead_since > 2 * self._interval_s:
            return self._post_failure(Failure(self._next, self._neighbour.host, "lost", 1, f"{neighbor} has died"))
        if now - self._heard_s > self._timeout_s:
            state = self._neighbour.state
            state_descriptions = {
                "T": "it is stopped (SIGSTOP)",
                "D": "it waits for a device",
                "?": "its node may be out of reach",
            }
            text = f"{neighbor} is silent for {self._timeout_s:g} s: {state_descriptions.get(state, f'its state is {state}')}"
            hint = f"stacks of all ranks: {self._folder}/stacks-rank_*.txt; the deadline is launch.hang_timeout"
            self._post_failure(Failure(self._next, self._neighbour.host, "hung", 1, text, hint))
            self._kill_hung_process(self._neighbour)
            return Failure(self._next, self._neighbour.host, "hung", 1, text, hint)
        return None

    def _post_failure(self, failure: Failure) -> Failure:
        """Leaves the failure in the store, in a thread of its own, for the store may not answer."""
        threading.Thread(target=self._meeting.report_failure, args=(failure,), daemon=True).start()
        return failure

    def _kill_hung_process(self, process: ProcessIdentity) -> None:
        """A stopped process writes its stack once it is let go on; then it is ended at once: it would train on, or outlive its run."""
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
    """Where the stacks of a rank's threads are written."""
    return folder / f"stacks-rank_{rank}.txt"


def read_stacks(folder: Path) -> str:
    """The stacks that were written, rank by rank."""
    files = sorted(folder.glob("stacks-rank_*.txt"), key=lambda file: (len(file.name), file.name))
    texts = [(file.stem.removeprefix("stacks-"), file.read_text(encoding="utf-8", errors="replace")) for file in files]
    return "\n".join(f"--- {name}\n{text.rstrip()}" for name, text in texts if text.strip())


def _read_pid_namespace() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read_process_stat(pid: int) -> tuple[str, str]:
    """(state, start time) of a process from /proc/PID/stat; X where there is none."""
    try:
        stat_fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return stat_fields[0], stat_fields[19]
