"""Fork a process from one that has imported torch and done nothing else."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class ForkedProcess:
    """A forked process, with the methods of `subprocess.Popen` that its parent needs.

    `returncode` is None until the process has ended; that of a signal is negative.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def fork_process(environ: Mapping[str, str]) -> ForkedProcess | None:
    """Fork a process with a session, an environment and an empty input of its own; return None in it.

    The caller has started no thread. Signals that it blocks stay blocked in the process.
    """
    # What stays is not copied by the first collection of each process.
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid:
        return ForkedProcess(pid)
    os.setsid()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    os.environ.update(environ)
    random.seed()
    return None
