"""Train as one of several ranks.

The ranks meet, agree, watch over each other, and end together with one error and one exit code.
"""

from __future__ import annotations

import atexit
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from dnntrain.config.digest import compute_digest
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.failure import Failure, get_first_line
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.distributed.watchdog import LOST_CONTACT_HINT, Watchdog, read_stacks
from dnntrain.errors import ConfigError, DnntrainError, RankError, Stopped
from dnntrain.run.directory import RunDirectory
from dnntrain.utils.files import make_folder, write_bytes
from dnntrain.utils.json_files import read_json
from dnntrain.utils.signals import SignalReceived

Value = TypeVar("Value")

#: Error texts of the transports if another rank has ended, or if not all ranks joined a collective.
_BROKEN_CONNECTION = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|broken pipe", re.IGNORECASE
)

#: Seconds to find out why a collective broke: the rank with the cause reports it within this time.
_CAUSE_WAIT_S = 5.0


class RankGroup:
    """The connection of this rank with the others while it trains.

    `start_key` is the key in the store under which a restart finds that the run has started.
    """

    def __init__(self, rendezvous: Rendezvous, folder: Path, start_key: str) -> None:
        self.rendezvous = rendezvous
        self.folder = folder
        self._start_key = start_key
        self.watchdog: Watchdog | None = None
        self.is_ending = False
        self._known_cause: BaseException | None = None

    def run_on_all_ranks(self, name: str, body: Callable[[], Value]) -> Value:
        """Return the result of `body` here after it succeeds on all ranks.

        Otherwise raise the same error on all ranks.
        """
        return self.rendezvous.run_on_all_ranks(name, body)

    def agree_on_start(self, step: str) -> None:
        """Raise ConfigError on all ranks if they do not start at the same step."""
        self.rendezvous.check_agreement("checkpoints", {"step": step})

    def record_start(self) -> None:
        """Record that all checkpoints in the run directory are of this run: a restart resumes from them."""
        self.rendezvous.root.set(self._start_key, b"1")

    def agree_on_cut(self, number: int, digest: str) -> None:
        """Raise ConfigError on all ranks if they have cut the network differently."""
        self.rendezvous.check_agreement(f"cut {number}", {"widths": digest})

    def agree_on_data(self, data: str, config: RunConfig) -> None:
        """Raise ConfigError on all ranks if their data or configurations differ."""
        self.rendezvous.check_agreement(
            "data and configuration", {"data digest": data, "config digest": compute_digest(config.resolved)}
        )

    def resolve_cause(self, error: BaseException) -> BaseException:
        """Return the error that ends the run on all ranks, given this rank's.

        Signals then have no effect.
        """
        if error is self._known_cause:
            return error
        if isinstance(error, SignalReceived):
            error = self._to_stopped(error)
        self.is_ending = True
        if self.watchdog is not None:
            self.watchdog.expect_exit()
        world = self.rendezvous.world
        failure = self._find_first_failure(error)
        write_failure(self.folder, failure)
        is_own = failure.rank == world.rank or failure.message == str(getattr(error, "message", ""))
        if failure.kind == "hung":
            if self.watchdog is not None:
                self.watchdog.write_stacks(error)
            if world.is_main:
                show_stacks(self.folder / "logs")
        final_error = error if is_own and failure.kind in ("error", "bug") else failure.to_exception()
        if isinstance(final_error, DnntrainError):
            # One rank speaks for all; but if nodes have lost each other, each node reports its own
            # error.
            is_disconnected = failure.kind in ("lost", "hung") and world.local_rank == 0
            final_error.is_reported = not world.is_main and not is_disconnected
        self._known_cause = final_error
        if "TORCHELASTIC_ERROR_FILE" in os.environ and isinstance(final_error, Exception):
            # torchrun shows this in its own last lines about a rank.
            get_error_handler().record_exception(final_error)
        self._record_result(final_error)
        return final_error

    def _record_result(self, final_error: BaseException) -> None:
        """Write result.json for a run that ended before it opened its directory.

        It does so unless another process works there. The result of an earlier run stays; the
        result of a restart replaces the one of the attempt before it.
        """
        earlier_result = read_json(self.folder / "result.json")
        if (
            not self.rendezvous.world.is_main
            or earlier_result.get("status") == "done"
            or (earlier_result and not restart_count())
        ):
            return
        try:
            directory = RunDirectory.open(str(self.folder), self.folder.name)
        except ConfigError:
            return
        error = (
            final_error
            if isinstance(final_error, DnntrainError)
            else RankError(f"{type(final_error).__name__}: {final_error}")
        )
        directory.write_result(failed_result(error, self.folder))
        directory.close()

    def _find_first_failure(self, error: BaseException) -> Failure:
        """Return the first failure, which all ranks end with."""
        local_failure = Failure.from_error(error, self.rendezvous.world.rank)
        is_reported = isinstance(error, DnntrainError) and not isinstance(error, Stopped)
        is_broken = isinstance(error, DistError) or (
            isinstance(error, RuntimeError) and _BROKEN_CONNECTION.search(str(error))
        )
        if is_reported or not (is_broken or isinstance(error, Stopped)):
            return self.rendezvous.report_failure(local_failure)
        # A broken collective follows from an error elsewhere; and the launcher signals ranks once
        # one has ended.
        has_saved = isinstance(error, Stopped) and error.is_saved
        first_failure = self.rendezvous.wait_for_failure(0.0 if has_saved else _CAUSE_WAIT_S if is_broken else 1.0)
        if first_failure is not None:
            return first_failure
        if self.watchdog is not None and (disconnect_reason := self.watchdog.lost_contact_message):
            kill_torchrun_agent_at_exit()
            return Failure(
                local_failure.rank,
                local_failure.host,
                "lost",
                RankError.exit_code,
                disconnect_reason,
                LOST_CONTACT_HINT,
            )
        if is_broken:
            is_timeout = re.search("timed out|timeout", str(error), re.IGNORECASE)
            symptom = (
                "waited for another rank until the deadline" if is_timeout else "lost its connection to another rank"
            )
            text = f"rank {local_failure.rank} on {local_failure.host} {symptom}: {get_first_line(error)}"
            hint = f"stacks of all ranks: {self.folder}/logs/stacks-rank_*.txt; the deadline is launch.hang_timeout"
            kind = "hung" if is_timeout else "lost"
            local_failure = Failure(
                local_failure.rank, local_failure.host, kind, RankError.exit_code, text, hint if is_timeout else ""
            )
        return self.rendezvous.report_failure(local_failure)

    def exit_on_signals_of_run(self, folder: Path) -> AbstractContextManager[None]:
        """Change nothing: signals end the rank for as long as it belongs to the group."""
        return nullcontext()

    def _to_stopped(self, received: SignalReceived) -> Stopped:
        return received.to_stopped(
            "stopped; earlier checkpoints are kept", f"resume with: dnntrain resume {self.folder}"
        )


def get_versions() -> dict[str, str]:
    """Return the versions that must be the same on all nodes for equal results."""
    import torch

    from dnntrain import __version__

    return {"python": platform.python_version(), "torch": torch.__version__, "dnntrain": __version__}


def write_failure(folder: Path, failure: Failure) -> None:
    """Write logs/failure.json: why the ranks ended, for the process that started them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_folder(folder / "logs")
        write_bytes(folder / "logs" / "failure.json", failure.to_bytes())
    except OSError:
        return


def restart_count() -> int:
    """Return how often this run was restarted after a lost rank, by dnntrain, torchrun or Slurm."""
    names = ("DNNTRAIN_RESTART", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name) or 0) for name in names)


def kill_torchrun_agent_at_exit(now: bool = False) -> None:
    """End torchrun's agent after this process if the rendezvous store is unreachable.

    It does so only if no restart is left. The agent waits for that store for as long as TCP tries,
    about 15 minutes, and its ranks' exit codes would wait with it.
    """
    restarts_left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(
        os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    )
    if "TORCHELASTIC_RUN_ID" not in os.environ or restarts_left > 0 or os.environ.get("LOCAL_RANK") != "0":
        return
    if now:
        os.kill(os.getppid(), signal.SIGKILL)
    else:
        atexit.register(os.kill, os.getppid(), signal.SIGKILL)


def failed_result(error: DnntrainError, folder: Path) -> dict[str, Any]:
    """Return result.json of a run that could not write its own."""
    return {"status": error.status, "reason": error.message, "exit_code": error.exit_code, "run_dir": str(folder)}


#: Seconds in which all ranks write their stacks.
_STACKS_WAIT_S = 2.0


def show_stacks(logs: Path) -> None:
    """Show the stacks of all ranks, unless a parent process does."""
    time.sleep(_STACKS_WAIT_S)
    if "DNNTRAIN_RESTART" not in os.environ:
        print(read_stacks(logs), file=sys.stderr)
