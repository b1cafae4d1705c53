"""Starting the ranks of a run on this machine: torchrun on the loopback interface, with the resolved configuration.

The process that was called stays the parent: it passes signals on, starts the ranks again from the last checkpoint where
`launch.max_restarts` allows, and ends with the exit code and the message of the rank that failed first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import ConfigError, DnntrainError, RankError, error_of
from dnntrain.run.directory import RunDirectory
from dnntrain.utils.files import read_json

if TYPE_CHECKING:
    from dnntrain.run.session import Session

_AGENT_FILES = ("agent.json", "failure.json")

#: Seconds that killed ranks may take to give the run directory's lock back.
_RELEASE_S = 15.0


def launch(
    session: Session, directory: RunDirectory, display: str, overrides: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    """Trains in `session.plan.ranks` processes and returns what the main rank wrote. `directory` is closed: the main rank opens it."""
    path, choice = directory.path, session.config.launch
    directory.write_start(session.config.resolved, list(overrides), session.plan.as_json())
    directory.close()
    for old in (path / "logs").glob("stacks-rank_*.txt"):
        old.unlink()
    started = _Ranks(session, path, display)
    for restart in range(choice.max_restarts + 1):
        error = started.attempt(restart)
        if error is None:
            return {**read_json(path / "result.json"), "run_dir": str(path)}
        if not isinstance(error, RankError) or started.asked_to_stop or restart == choice.max_restarts:
            break
        last = _last_checkpoint(path)
        print(
            f"{error.message}\nrestart {restart + 1} of {choice.max_restarts}, {last}",
            file=sys.stderr,
        )
    assert error is not None
    raise error


def launched(session: Session, path: Path, module: str) -> None:
    """Runs `python -m module path` in `session.plan.ranks` processes, once. Raises why they failed."""
    started = _Ranks(session, path, "quiet")
    code = started.run(_command(path, session, module), started.environ(0))
    if code:
        raise _why(path, {}, code)


class _Ranks:
    """torchrun and its ranks, one attempt after the other."""

    def __init__(self, session: Session, path: Path, display: str) -> None:
        self._session = session
        self._path = path
        self._display = display
        self.asked_to_stop = False

    def attempt(self, restart: int) -> DnntrainError | None:
        """Starts the ranks and waits for their end; returns why they failed, if they did."""
        for name in _AGENT_FILES:
            (self._path / "logs" / name).unlink(missing_ok=True)
        (self._path / "result.json").unlink(missing_ok=True)
        code = self.run(_command(self._path, self._session), self.environ(restart))
        result = read_json(self._path / "result.json")
        if result.get("status") == "done" and code == 0:
            return None
        error = _why(self._path, result, code)
        _leave_result(self._path, result, error)
        return error

    def environ(self, restart: int) -> dict[str, str]:
        environ = {**os.environ, "DNNTRAIN_DISPLAY": self._display, "DNNTRAIN_RESTART": str(restart)}
        environ.setdefault("OMP_NUM_THREADS", str(max(1, self._session.hardware.cores // self._session.plan.ranks)))
        # A rank that is asked to stop saves first; a long step or a large checkpoint is not to be cut off.
        environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(round(self._session.config.launch.timeout.value) + 30))
        if sys.platform == "linux":
            environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return environ

    def run(self, command: list[str], environ: Mapping[str, str]) -> int:
        """The exit code of torchrun, which has a session of its own: it gets each signal once, from here, and ends its ranks well."""
        from dnntrain.utils.signals import handled

        process: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, frame: object) -> None:
            self.asked_to_stop = True
            for child in process:
                child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

        with handled(pass_on):
            process.append(subprocess.Popen(command, env=environ, start_new_session=True))
            return process[0].wait()


def _command(path: Path, session: Session, module: str = "dnntrain.run.worker") -> list[str]:
    agent = [sys.executable, "-m", "dnntrain.run.torchrun_agent", str(path), str(os.getpid())]
    where = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={session.plan.ranks}"]
    return [*agent, *where, "-m", module, str(path)]


def _why(path: Path, result: Mapping[str, Any], code: int) -> DnntrainError:
    """The error of the rank that failed first: as the ranks agreed; else as torchrun saw their end."""
    from dnntrain.distributed.rendezvous import Failure
    from dnntrain.distributed.watchdog import stacks

    agent = read_json(path / "logs" / "agent.json")
    killed = (
        f"rank {agent['rank']} (process {agent['pid']}) was ended by {agent['signal']}" if agent.get("signal") else ""
    )
    hint = f"go on from the last checkpoint with: dnntrain resume {path}"
    if "SIGKILL" in killed:
        killed += ", as the kernel does where memory is short"
    told = read_json(path / "logs" / "failure.json")
    if told:
        failure = Failure(**told)
        if failure.kind == "hung":
            shown = stacks(path / "logs")
            return RankError(f"{shown}\n{failure.message}" if shown else failure.message, failure.hint)
        if failure.kind == "lost" and killed:
            return RankError(killed, hint)
        return failure.error()
    if result.get("exit_code"):
        return error_of(int(result["exit_code"]), str(result.get("reason")))
    if killed:
        return RankError(killed, hint)
    if code < 0:
        return RankError(f"torchrun was ended by {signal.Signals(-code).name}", hint)
    return error_of(code, f"the ranks ended with code {code}; see {path}/logs")


def _leave_result(path: Path, result: Mapping[str, Any], error: DnntrainError) -> None:
    """result.json where no rank has written it. Waits for the lock: a rank that was killed may hold it a moment longer."""
    end = time.monotonic() + _RELEASE_S
    while True:
        try:
            directory = RunDirectory.open(str(path), path.name)
            break
        except ConfigError:
            if time.monotonic() > end:
                return
            time.sleep(0.1)
    if not result or isinstance(error, RankError):
        facts = {"status": error.status, "reason": error.message.splitlines()[-1], "exit_code": error.exit_code}
        directory.write_result({**result, **facts, "run_dir": str(path)})
    directory.close()


def _last_checkpoint(path: Path) -> str:
    from dnntrain.checkpoint.checkpoint import pointer

    last = pointer(path / "checkpoints", "LAST")
    return f"from {last}" if last else "from the start: nothing was saved yet"
