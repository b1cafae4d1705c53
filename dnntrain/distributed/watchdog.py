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

from dnntrain.distributed.rendezvous import Failure, Meeting

#: Asks a rank for the stacks of its threads; none of the signals that end a run.
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 1

#: Seconds that the training thread has to end by itself once a failure is known.
_GRACE_S = {"error": 10.0, "bug": 10.0, "lost": 6.0, "hung": 3.0}
#: Seconds after which a rank that is ending, but does not end, is ended.
_SETTLE_S = 60.0


#: Seconds of silence after which the store of the main rank counts as out of reach.
_OUT_OF_TOUCH_S = 6.0

OUT_OF_TOUCH_HINT = (
    "is the network up, and the node of rank 0? start both sides again to go on from the last checkpoint"
)


@dataclass(frozen=True)
class Identity:
    """A process, so that no other one of the same number is taken for it.

    `started` is the kernel's start time of it, `place` the running kernel and the space that process numbers belong to.
    """

    host: str
    place: str
    pid: int
    started: str

    @classmethod
    def own(cls) -> Identity:
        return cls(socket.gethostname(), _place(), os.getpid(), _stat(os.getpid())[1])

    @property
    def state(self) -> str:
        """The kernel's letter for what the process does: R, S, D, T (stopped), Z; X where it is gone; ? on another host."""
        if self.place != _place() or not self.started:
            return "?"
        state, started = _stat(self.pid)
        return state if started == self.started else "X"

    def send(self, number: int) -> None:
        """Sends a signal, where it still is the process."""
        if self.state not in "?XZ":
            os.kill(self.pid, number)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


#: How long a process that is let go on has to write its stacks, and how often the file is looked at.
_STACKS_S, _STACKS_POLL_S = 1.0, 0.005


class Watch:
    """Watches over the ranks of `meeting` from `start` to `close`.

    `timeout_s` is the deadline of a silent rank. Stacks go to `folder`. Where the training thread does not end by itself,
    `end(failure)` is called in the thread of the watch, just before the process is ended.
    """

    def __init__(self, meeting: Meeting, timeout_s: float, folder: Path, end: Callable[[Failure], None]) -> None:
        self._meeting = meeting
        self._timeout_s = timeout_s
        self._folder = folder
        self._end = end
        self._interval_s = min(max(timeout_s / 20, 0.1), 0.5)
        self._next = (meeting.world.rank + 1) % meeting.world.size
        self._closed = threading.Event()
        self._settling = threading.Event()
        self._contact_s = self._heard_s = time.monotonic()
        self._beat = ""
        self._neighbour: Identity | None = None
        self._neighbour_left = False
        self._failure: Failure | None = None
        self._stacks: TextIO | None = None
        self._stacks_written = False
        self._told = False

    def start(self) -> None:
        """Begins to speak and to listen."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks = stacks_file(self._folder, self._meeting.world.rank).open("w", encoding="utf-8")
        if hasattr(faulthandler, "register"):
            faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)
        for body in (self._speak, self._judge):
            threading.Thread(target=body, name=f"dnntrain{body.__name__}", daemon=True).start()

    def settle(self) -> None:
        """The training thread has met an error and ends the run itself."""
        self._settling.set()

    @property
    def out_of_touch(self) -> str:
        """Where the main rank's store has not answered for some seconds: a sentence that says so; else empty."""
        silent_s = time.monotonic() - self._contact_s
        if self._told or silent_s < min(self._timeout_s, _OUT_OF_TOUCH_S):
            return ""
        own, host = self._meeting.world.rank, socket.gethostname()
        return f"rank {own} on {host} has lost touch with the main rank's store for {silent_s:.0f} s"

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
        self._meeting.done()

    def _speak(self) -> None:
        """Counts, and listens to the next rank. May block for good where a link is cut; `_judge` sees that."""
        try:
            # A connection of one's own: a blocked call on one must not block the other.
            store = self._meeting.store.clone()
            own = self._meeting.world.rank
            store.set(f"who/{own}", json.dumps(vars(Identity.own())))
            count = 0
            while not self._closed.wait(self._interval_s):
                count += 1
                store.set(f"beat/{own}", str(count))
                if store.check(["failure"]):
                    self._told = True
                    self._failure = Failure.from_bytes(store.get("failure"))
                    return
                self._listen(store)
                self._contact_s = time.monotonic()
        except (DistError, RuntimeError, OSError):
            return

    def _listen(self, store: Store) -> None:
        if self._neighbour is None:
            if not store.check([f"who/{self._next}"]):
                return
            self._neighbour = Identity(**json.loads(store.get(f"who/{self._next}")))
        self._neighbour_left = store.check([f"done/{self._next}"])
        beat = store.get(f"beat/{self._next}").decode() if store.check([f"beat/{self._next}"]) else ""
        if beat != self._beat:
            self._beat, self._heard_s = beat, time.monotonic()

    def _judge(self) -> None:
        """Looks at what `_speak` heard; touches no socket."""
        dead_since = 0.0
        last = time.monotonic()
        while not self._closed.wait(self._interval_s):
            now = time.monotonic()
            if now - last > 4 * self._interval_s + 1:
                # This process itself was stopped: the others' silence was its own.
                self._contact_s = self._heard_s = now
            last = now
            if self._failure is None:
                dead = self._neighbour is not None and not self._neighbour_left and self._neighbour.state in "XZ"
                dead_since = (dead_since or now) if dead else 0.0
                self._failure = self._judged(now, dead_since)
            if self._failure is not None:
                self._finish(self._failure)
                return

    def _judged(self, now: float, dead_since: float) -> Failure | None:
        who = f"rank {self._next} ({self._neighbour})"
        own, host = self._meeting.world.rank, socket.gethostname()
        if now - self._contact_s > self._timeout_s:
            return Failure(own, host, "lost", 1, self.out_of_touch, OUT_OF_TOUCH_HINT)
        if self._neighbour is None or self._neighbour_left:
            return None
        if dead_since and now - dead_since > 2 * self._interval_s:
            return self._posted(Failure(self._next, self._neighbour.host, "lost", 1, f"{who} has died"))
        if now - self._heard_s > self._timeout_s:
            state = self._neighbour.state
            doing = {"T": "it is stopped (SIGSTOP)", "D": "it waits for a device", "?": "its node may be out of reach"}
            text = f"{who} is silent for {self._timeout_s:g} s: {doing.get(state, f'its state is {state}')}"
            hint = f"stacks of all ranks: {self._folder}/stacks-rank_*.txt; the deadline is launch.timeout"
            self._posted(Failure(self._next, self._neighbour.host, "hung", 1, text, hint))
            self._end_hung(self._neighbour)
            return Failure(self._next, self._neighbour.host, "hung", 1, text, hint)
        return None

    def _posted(self, failure: Failure) -> Failure:
        """Leaves the failure in the store, in a thread of its own, for the store may not answer."""
        threading.Thread(target=self._meeting.fail, args=(failure,), daemon=True).start()
        return failure

    def _end_hung(self, process: Identity) -> None:
        """A stopped process writes its stack once it is let go on; then it is ended at once: it would train on, or outlive its run."""
        written = stacks_file(self._folder, self._next)
        try:
            process.send(STACKS_SIGNAL)
            process.send(signal.SIGCONT)
            deadline = time.monotonic() + _STACKS_S
            while time.monotonic() < deadline and not (written.is_file() and written.stat().st_size):
                time.sleep(_STACKS_POLL_S)
            time.sleep(_STACKS_POLL_S)
            process.send(signal.SIGKILL)
        except OSError:
            return

    def _finish(self, failure: Failure) -> None:
        if failure.kind == "hung":
            self.write_stacks()
        self._settling.wait(_GRACE_S[failure.kind])
        if self._settling.is_set() and self._closed.wait(_SETTLE_S):
            return
        try:
            self._end(failure)
        finally:
            os._exit(failure.exit_code)


def stacks_file(folder: Path, rank: int) -> Path:
    """Where the stacks of a rank's threads are written."""
    return folder / f"stacks-rank_{rank}.txt"


def stacks(folder: Path) -> str:
    """The stacks that were written, rank by rank."""
    files = sorted(folder.glob("stacks-rank_*.txt"), key=lambda file: (len(file.name), file.name))
    texts = [(file.stem.removeprefix("stacks-"), file.read_text(encoding="utf-8", errors="replace")) for file in files]
    return "\n".join(f"--- {name}\n{text.rstrip()}" for name, text in texts if text.strip())


def _place() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """(state, start time) of a process from /proc/PID/stat; X where there is none."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return after[0], after[19]
