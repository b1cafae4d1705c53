"""Train as one of several ranks.

The ranks meet, agree, watch over each other, and end together with one error and one exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from dnntrain.config.decode import compute_digest, decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed import collectives
from dnntrain.distributed.rendezvous import Failure, Rendezvous, get_first_line
from dnntrain.distributed.watchdog import LOST_CONTACT_HINT, Watchdog, read_stacks
from dnntrain.errors import ConfigError, DnntrainError, RankError, Stopped
from dnntrain.run.directory import RunDirectory, get_log_path
from dnntrain.utils.files import make_folder, open_file, read_json, write_bytes
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.signals import SignalReceived, raise_on_signals, unblock_signals
from dnntrain.utils.world import World

Value = TypeVar("Value")

#: Error texts of the transports if another rank has ended, or if not all ranks joined a collective.
_BROKEN_CONNECTION = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|broken pipe", re.IGNORECASE
)

#: Seconds to find out why a collective broke: the rank with the cause reports it within this time.
_CAUSE_WAIT_S = 5.0

#: Seconds in which all ranks write their stacks.
_STACKS_WAIT_S = 2.0

_num_earlier_runs = 0


class RankGroup:
    """The connection of this rank with the others while it trains."""

    def __init__(self, rendezvous: Rendezvous, folder: Path) -> None:
        self.rendezvous = rendezvous
        self.folder = folder
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


@contextmanager
def join_rank_group(make_config: Callable[[], RunConfig], world: World) -> Iterator[tuple[RunConfig, RankGroup]]:
    """Meet the other ranks: (the main rank's configuration with its run directory, the group).

    If the body fails on one rank, the same error is raised on all of them.
    """
    from dnntrain.utils.hardware import probe_hardware

    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    rendezvous = Rendezvous.join(world)
    try:
        rendezvous.check_agreement("versions", get_versions())
        config = _share_config(rendezvous, make_config)
        folder = Path(str(config.run_dir))
        with ExitStack() as stack:
            _open_logs(rendezvous, folder, stack)
            rank_group = RankGroup(rendezvous, folder)
            device = probe_hardware(config.device).device
            timeout_s = float(config.launch.hang_timeout.value)
            with raise_on_signals(lambda: rank_group.is_ending), _watch_ranks(rank_group, timeout_s):
                try:
                    unblock_signals()
                    collectives.join_process_group(world, device, rendezvous.raw_store, timeout_s)
                    yield config, rank_group
                except BaseException as error:
                    cause = rank_group.resolve_cause(error)
                    if cause is error:
                        raise
                    raise cause from None
                finally:
                    collectives.leave_process_group()
    finally:
        rendezvous.leave()


def _open_logs(rendezvous: Rendezvous, folder: Path, stack: ExitStack) -> None:
    """Redirect the output of all ranks but the main one, until `stack` is closed."""
    world = rendezvous.world
    try:
        rendezvous.run_on_all_ranks("log", lambda: stack.enter_context(redirect_output_to_log(folder, world)))
    except DnntrainError as error:
        write_failure(folder, Failure.from_error(error, world.rank))
        raise


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


def _share_config(rendezvous: Rendezvous, make_config: Callable[[], RunConfig]) -> RunConfig:
    """Return the main rank's configuration and run directory, on every rank."""
    config = rendezvous.run_on_all_ranks("configuration", make_config)
    run_fields = rendezvous.run_on_all_ranks(
        "place", lambda: _choose_run_dir(rendezvous, config) if rendezvous.world.is_main else {}
    )
    main_config = json.loads(
        rendezvous.broadcast_from_main("configuration", lambda: json.dumps({**config.resolved, **run_fields}).encode())
    )
    return rendezvous.run_on_all_ranks("decoding", lambda: decode_config(main_config))


def _choose_run_dir(rendezvous: Rendezvous, config: RunConfig) -> dict[str, str]:
    """Return run_dir, the same one after a restart by torchrun, and resume.

    After a restart the run resumes from its own checkpoints.
    """
    global _num_earlier_runs
    key = f"dnntrain/run_dir/{_num_earlier_runs}"
    _num_earlier_runs += 1
    run_dir = config.run_dir or f"runs/{config.name}/{time.strftime('%Y%m%d-%H%M%S')}"
    if restart_count() and rendezvous.root.check([key]):
        run_dir = rendezvous.root.get(key).decode()
    elif restart_count() and not config.run_dir:
        raise ConfigError(
            "the ranks were restarted, and their run directory is unknown because the node that recorded it is gone",
            "set run_dir=FOLDER on a file system that all nodes share: the ranks then resume from its last checkpoint",
        )
    folder = Path(run_dir).expanduser().absolute()
    rendezvous.root.set(key, str(folder).encode())
    has_checkpoint = restart_count() > 0 and (folder / "checkpoints" / "LAST").is_file()
    return {"run_dir": str(folder), "resume": "auto" if has_checkpoint else config.resume}


@contextmanager
def _watch_ranks(rank_group: RankGroup, timeout_s: float) -> Iterator[None]:
    watchdog = Watchdog(
        rank_group.rendezvous,
        timeout_s,
        rank_group.folder / "logs",
        lambda failure: _report_failure(rank_group, failure),
    )
    rank_group.watchdog = watchdog
    watchdog.start()
    try:
        yield
    finally:
        watchdog.close()


def _report_failure(rank_group: RankGroup, failure: Failure) -> None:
    """Write and report a failure here, because the training thread is stuck in a collective."""
    world = rank_group.rendezvous.world
    write_failure(rank_group.folder, failure)
    error = failure.to_exception()
    if failure.rank == world.rank and failure.kind == "lost":
        print(f"dnntrain: {error}", file=sys.stderr, flush=True)
        kill_torchrun_agent_at_exit(now=True)
        return
    reporting_rank = 1 if failure.kind in ("hung", "lost") and failure.rank == 0 else 0
    if world.rank == reporting_rank:
        path = rank_group.folder / "result.json"
        if not read_json(path):
            write_sealed_json(path, failed_result(error, rank_group.folder))
        if failure.kind == "hung":
            show_stacks(rank_group.folder / "logs")
        print(f"dnntrain: {error}", file=sys.stderr, flush=True)


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


def show_stacks(logs: Path) -> None:
    """Show the stacks of all ranks, unless a parent process does."""
    time.sleep(_STACKS_WAIT_S)
    if "DNNTRAIN_RESTART" not in os.environ:
        print(read_stacks(logs), file=sys.stderr)


def failed_result(error: DnntrainError, folder: Path) -> dict[str, Any]:
    """Return result.json of a run that could not write its own."""
    return {"status": error.status, "reason": error.message, "exit_code": error.exit_code, "run_dir": str(folder)}


@contextmanager
def redirect_output_to_log(folder: Path, world: World) -> Iterator[None]:
    """Redirect the output of all ranks but the main one to logs/rank_N.log.

    This includes the output of libraries and of crashes.
    """
    if world.is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    make_folder(folder / "logs")
    sys.stdout.flush()
    sys.stderr.flush()
    saved_streams = [(number, os.dup(number)) for number in (1, 2)]
    with open_file(get_log_path(folder, world.rank), "a", encoding="utf-8") as file:
        print(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}",
            file=file,
            flush=True,
        )
        for number, _ in saved_streams:
            os.dup2(file.fileno(), number)
    try:
        yield
    except Exception:
        import traceback

        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved_stream in saved_streams:
            os.dup2(saved_stream, number)
            os.close(saved_stream)
