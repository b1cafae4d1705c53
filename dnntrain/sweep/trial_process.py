"""The process of a trial: one of its own, or one that a server forks, which has torch imported."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dnntrain.sweep.processes import start_process
from dnntrain.sweep.resources import Resources
from dnntrain.sweep.sweep_directory import Trial
from dnntrain.utils.files import open_file


class TrialProcess(Protocol):
    """A process that trains a trial; `returncode` is None until `poll` has seen its end."""

    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; a negative one is the signal that killed it."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal to the process, unless it has ended."""

    def kill(self) -> None:
        """Kill the process."""


class TrialStarter:
    """Starts the processes of trials.

    With `keep_servers`, trials on the processor are forked by servers, of which one stays for each part
    of the machine.
    """

    def __init__(self, keep_servers: bool) -> None:
        self._keeps_servers = keep_servers and sys.platform == "linux"
        self._servers: list[_TrialServer] = []

    def start(self, trial: Trial, resources: Resources, environ: Mapping[str, str]) -> TrialProcess:
        """Start the process of a trial on a part of the machine."""
        # A process that has used an accelerator's library cannot be forked.
        if not self._keeps_servers or trial.demand.devices:
            return start_process(make_trial_command(trial, resources), environ, trial.folder)
        self._servers = [server for server in self._servers if server.is_running]
        free = [server for server in self._servers if not server.is_busy]
        server = next((server for server in free if server.environ == environ), None)
        if server is None:
            for other in free:
                other.close()
            server = _TrialServer(environ, trial.folder)
            self._servers.append(server)
        return server.start(trial.folder, resources)

    def close(self) -> None:
        """End the servers; trials that run are asked to stop."""
        for server in self._servers:
            server.close()


class _TrialServer:
    """A server process with the environment that its trials have."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.environ = dict(environ)
        self._trial: _ForkedTrial | None = None
        with open_file(folder / "output.txt", "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dnntrain.sweep.trial_server", str(os.getpid())],
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def is_busy(self) -> bool:
        return self._trial is not None and self._trial.poll() is None

    def start(self, folder: Path, resources: Resources) -> TrialProcess:
        """Have the server fork the process of the trial of `folder`."""
        from dnntrain.sweep.processes import MARK_VARIABLE

        environ = {**self.environ, MARK_VARIABLE: str(folder)}
        request = {"folder": str(folder), "environ": environ, "cores": resources.cores}
        self._trial = _ForkedTrial(self._process)
        with suppress(OSError):  # a server that has ended is seen by `poll`
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._trial

    def close(self) -> None:
        """End the server; the kernel asks its trial to stop."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._process.terminate()
        self._process.wait()


class _ForkedTrial:
    """A trial that a server has been asked for. Its answers are read as they come."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self.returncode: int | None = None
        self._server = server
        self._pid: int | None = None
        self._signals: list[int] = []
        self._text = b""

    def poll(self) -> int | None:
        if self.returncode is None:
            has_ended = self._server.poll() is not None
            self._read_answers()
            if self.returncode is None and has_ended:
                code = self._server.returncode
                self.returncode = code if code else -signal.SIGKILL
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is not None:
            return
        if self._pid is None:
            self._signals.append(sig)  # the server is still to fork
        else:
            with suppress(ProcessLookupError):
                os.kill(self._pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_answers(self) -> None:
        assert self._server.stdout is not None
        if self._server.stdout.closed:
            return
        descriptor = self._server.stdout.fileno()
        while self.returncode is None and select.select([descriptor], [], [], 0)[0]:
            data = os.read(descriptor, 4096)
            if not data:
                return
            *lines, self._text = (self._text + data).split(b"\n")
            for line in lines:
                self._handle_answer(json.loads(line))

    def _handle_answer(self, answer: Mapping[str, int]) -> None:
        if "pid" in answer:
            self._pid = answer["pid"]
            for number in self._signals:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, number)
        else:
            self.returncode = answer["exit"]


def make_trial_command(trial: Trial, resources: Resources) -> list[str]:
    """Return the command that trains a trial's frozen configuration on its cores."""
    cores = ",".join(map(str, resources.cores))
    return [sys.executable, "-m", "dnntrain.sweep.worker", str(trial.folder), str(os.getpid()), cores]
