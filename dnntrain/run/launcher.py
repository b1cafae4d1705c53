"""Start the ranks of a run on this machine, which meet on the loopback interface.

torchrun is not used: its rendezvous listens on all interfaces and unpickles what it receives.

The calling process stays the parent. It forwards signals, restarts the ranks from the last
checkpoint if `launch.max_restarts` allows, and ends with the exit code and the message of the rank
that failed first.
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

from dnntrain.display.view_cleanup import prepare_to_clear
from dnntrain.errors import ConfigError, DnntrainError, RankError, make_exit_error
from dnntrain.run.directory import RunDirectory, get_log_path
from dnntrain.run.outputs import list_missing_outputs
from dnntrain.run.result import RunResult
from dnntrain.utils.downloads import NO_DOWNLOAD_VARIABLE, get_refusal_reason
from dnntrain.utils.files import check_file, remove_file
from dnntrain.utils.json_files import read_json
from dnntrain.utils.signals import SignalReceived, blocked_signals, ignore_signals, signal_handlers

if TYPE_CHECKING:
    from dnntrain.run.session import Session

_AGENT_FILES = ("agent.json", "failure.json")

#: Seconds for killed ranks to release the run directory's lock.
_LOCK_RELEASE_S = 15.0

#: Seconds beyond `launch.hang_timeout` in which ranks must end after a signal.
_SAVE_S = 30.0


def launch_run(session: Session, directory: RunDirectory, display: str) -> RunResult:
    """Train in `session.plan.ranks` processes and return the result of the main rank.

    `directory` is prepared: any checkpoint in it is of this run, so that a restart resumes from it.
    Closes `directory`, because the main rank opens it.
    """
    path, launch_config = directory.path, session.config.launch
    directory.close()
    for stale_path in (path / "logs").glob("stacks-rank_*.txt"):
        remove_file(stale_path)
    for rank in range(1, session.plan.ranks):
        check_file(get_log_path(path, rank))
    launcher = _RankLauncher(session, path, display)
    for restart in range(launch_config.max_restarts + 1):
        error = launcher.run_attempt(restart)
        if error is None:
            return RunResult.from_json(read_json(path / "result.json"), str(path))
        if not isinstance(error, RankError) or launcher.stop_signal or restart == launch_config.max_restarts:
            break
        checkpoint_note = _describe_last_checkpoint(path)
        print(
            f"{error.message}\nrestart {restart + 1} of {launch_config.max_restarts}, {checkpoint_note}",
            file=sys.stderr,
        )
    assert error is not None
    raise error


def run_module_on_ranks(session: Session, path: Path, module: str) -> None:
    """Run `python -m module path` in `session.plan.ranks` processes, once. Raises their error."""
    launcher = _RankLauncher(session, path, "quiet")
    code = launcher.run_agent(module, 0)
    if code:
        raise _find_cause(path, {}, code, launcher.stop_signal)


class _RankLauncher:
    """Start the agent and its ranks, one attempt after the other."""

    def __init__(self, session: Session, path: Path, display: str) -> None:
        self._session = session
        self._path = path
        self._display = display
        self.stop_signal: int | None = None

    def run_attempt(self, restart: int) -> DnntrainError | None:
        """Start the ranks and wait for their end; return why they failed, if they did."""
        for name in _AGENT_FILES:
            remove_file(self._path / "logs" / name)
        remove_file(self._path / "result.json")
        leave_view = prepare_to_clear(sys.stderr)
        code = self.run_agent("dnntrain.run.worker", restart)
        if code < 0 or _was_main_rank_killed(read_json(self._path / "logs" / "agent.json")):
            leave_view()
        result = read_json(self._path / "result.json")
        is_done = result.get("status") == "done"
        if is_done and (
            not code or self.stop_signal is not None or not list_missing_outputs(self._path, self._session.config)
        ):
            ignore_signals()
            return None
        error = _find_cause(self._path, result, code, self.stop_signal)
        if not is_done:
            _write_missing_result(self._path, result, error)
        return error

    def run_agent(self, module: str, restart: int) -> int:
        """Run `python -m module RUN` as each rank and return the exit code of the agent.

        The agent runs in its own session. It gets each signal once, from here, and stops its ranks
        in order.
        """
        processes: list[subprocess.Popen[bytes]] = []

        def forward_signal(number: int, frame: object) -> None:
            self.stop_signal = number
            for child in processes:
                child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

        with signal_handlers(forward_signal):
            command, environ = self._make_command(module), self._make_environ(restart)
            with blocked_signals():
                processes.append(subprocess.Popen(command, env=environ, start_new_session=True))
            return processes[0].wait()

    def _make_command(self, module: str) -> list[str]:
        # A rank saves before it stops; a long step or a large checkpoint must not be cut off.
        timeout_s = self._session.config.launch.hang_timeout.value + _SAVE_S
        numbers = map(str, (os.getpid(), self._session.plan.ranks, timeout_s))
        can_fork = self._session.hardware.device == "cpu" and sys.platform == "linux"
        start = "fork" if can_fork else "spawn"
        return [sys.executable, "-m", "dnntrain.run.rank_agent", str(self._path), *numbers, module, start]

    def _make_environ(self, restart: int) -> dict[str, str]:
        variables = {**os.environ, "DNNTRAIN_DISPLAY": self._display, "DNNTRAIN_RESTART": str(restart)}
        if reason := get_refusal_reason():
            variables[NO_DOWNLOAD_VARIABLE] = reason
        variables.setdefault("OMP_NUM_THREADS", str(max(1, self._session.hardware.cores // self._session.plan.ranks)))
        return variables


def _find_cause(path: Path, result: Mapping[str, Any], code: int, stop_signal: int | None) -> DnntrainError:
    """Return the error of the first failed rank: as the ranks agreed, else as the agent saw it."""
    from dnntrain.distributed.failure import Failure
    from dnntrain.distributed.watchdog import read_stacks

    hint = f"resume from the last checkpoint with: dnntrain resume {path}"
    kill_message = _describe_kill(read_json(path / "logs" / "agent.json"))
    stopped = (
        None
        if stop_signal is None
        else SignalReceived(stop_signal).to_stopped("stopped; earlier checkpoints are kept", hint)
    )
    failure_fields = read_json(path / "logs" / "failure.json")
    if failure_fields:
        failure = Failure(**failure_fields)
        if failure.kind == "hung":
            stack_text = read_stacks(path / "logs")
            return RankError(f"{stack_text}\n{failure.message}" if stack_text else failure.message, failure.hint)
        if failure.kind == "lost" and stopped is not None:
            return stopped
        if failure.kind == "lost" and kill_message:
            return RankError(kill_message, hint)
        return failure.to_exception()
    if result.get("exit_code"):
        return make_exit_error(int(result["exit_code"]), str(result.get("reason")))
    if stopped is not None:
        # The ranks had no time to handle the signal.
        return stopped
    if kill_message:
        return RankError(kill_message, hint)
    if code < 0:
        return RankError(f"the process that started the ranks was ended by {signal.Signals(-code).name}", hint)
    return make_exit_error(code, f"the ranks ended with code {code}; see {path}/logs")


def _describe_kill(agent: Mapping[str, Any]) -> str:
    """Return how a signal ended the first failed rank; empty if none did."""
    if not agent.get("signal"):
        return ""
    text = f"rank {agent['rank']} (process {agent['pid']}) was ended by {agent['signal']}"
    return text + ", as the kernel does if memory is short" if agent["signal"] == "SIGKILL" else text


def _was_main_rank_killed(agent: Mapping[str, Any]) -> bool:
    """Return whether a signal ended the rank that draws the live view, before it could leave it."""
    return agent.get("rank") == 0 and bool(agent.get("signal"))


def _write_missing_result(path: Path, result: Mapping[str, Any], error: DnntrainError) -> None:
    """Write result.json if no rank has written it.

    Waits for the lock, because a killed rank may hold it a moment longer.
    """
    deadline_s = time.monotonic() + _LOCK_RELEASE_S
    while True:
        try:
            directory = RunDirectory.open(str(path), path.name)
            break
        except ConfigError:
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.1)
    if result.get("status") != error.status or isinstance(error, RankError):
        facts = {
            "status": error.status,
            "reason": (error.message.splitlines() or [""])[-1],
            "exit_code": error.exit_code,
        }
        directory.write_result({**result, **facts, "run_dir": str(path)})
    directory.close()


def _describe_last_checkpoint(path: Path) -> str:
    from dnntrain.checkpoint.checkpoint_folder import read_pointer

    last = read_pointer(path / "checkpoints", "LAST")
    return f"from {last}" if last else "from the start: nothing was saved yet"
