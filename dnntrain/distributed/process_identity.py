"""Identify a process of this or another machine."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """The identity of a process.

    It differs from later processes with the same number.

    pid_namespace  the running kernel and the namespace of process numbers
    start_time     the kernel's start time of the process
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
        """The state of the process as a letter of the kernel: R, S, D, T (stopped) or Z.

        X if the process has ended; ? if it runs on another host.
        """
        if self.pid_namespace != _read_pid_namespace() or not self.start_time:
            return "?"
        state, start_time = _read_process_stat(self.pid)
        return state if start_time == self.start_time else "X"

    def send_signal(self, signal_number: int) -> None:
        """Send a signal if the process still exists."""
        if self.state not in "?XZ":
            os.kill(self.pid, signal_number)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _read_pid_namespace() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read_process_stat(pid: int) -> tuple[str, str]:
    """Return (state, start time) of a process from /proc/PID/stat.

    The state is X if the process has ended.
    """
    try:
        stat_fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return stat_fields[0], stat_fields[19]
