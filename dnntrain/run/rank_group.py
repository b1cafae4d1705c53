"""Training as one of several ranks: they meet, agree, watch over each other, and end together with one error and one exit code."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from dnntrain.config.decode import decode, digest
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed import collectives
from dnntrain.distributed.rendezvous import Failure, Meeting
from dnntrain.distributed.watchdog import OUT_OF_TOUCH_HINT, Watch, stacks
from dnntrain.errors import ConfigError, DnntrainError, Interrupted, Preempted, RankError, Stopped
from dnntrain.run.directory import RunDirectory
from dnntrain.utils.files import read_json, write_bytes, write_json
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.signals import handled
from dnntrain.utils.world import World

Body = Callable[[RunConfig, "Ranks"], dict[str, Any]]

#: What the transports call a connection that another rank's end has broken, or a collective that not all ranks came to.
_BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|broken pipe", re.IGNORECASE)

#: Seconds to find out why a collective broke: the rank that knows it says so within this.
_CAUSE_S = 5.0

#: Seconds in which all ranks write their stacks.
_STACKS_S = 2.0

_trained_before = 0


class Ranks:
    """This rank's bond with the others while it trains."""

    def __init__(self, meeting: Meeting, folder: Path) -> None:
        self.meeting = meeting
        self.folder = folder
        self.watch: Watch | None = None
        self._ending = False
        self._caused: BaseException | None = None

    def agree_on_data(self, data: str, config: RunConfig) -> None:
        """Raises ConfigError on all ranks where their data or configurations are not the same."""
        self.meeting.agree("data and configuration", {"data digest": data, "config digest": digest(config.resolved)})

    def cause(self, error: BaseException) -> BaseException:
        """What the run ends with on all ranks, given what it met on this one. From here on signals change nothing."""
        if error is self._caused:
            return error
        self._ending = True
        if self.watch is not None:
            self.watch.settle()
        world = self.meeting.world
        failure = self._first(error)
        write_failure(self.folder, failure)
        own = failure.rank == world.rank or failure.message == str(getattr(error, "message", ""))
        if failure.kind == "hung":
            if self.watch is not None:
                self.watch.write_stacks(error)
            if world.is_main:
                show_stacks(self.folder / "logs")
        cause = error if own and failure.kind in ("error", "bug") else failure.error()
        if isinstance(cause, DnntrainError):
            # One voice for all; but where nodes have lost each other, each has its own.
            apart = failure.kind in ("lost", "hung") and world.local_rank == 0
            cause.shown = not world.is_main and not apart
        self._caused = cause
        if "TORCHELASTIC_ERROR_FILE" in os.environ and isinstance(cause, Exception):
            # What torchrun shows of a rank in its own last lines.
            get_error_handler().record_exception(cause)
        self._record(cause)
        return cause

    def _record(self, cause: BaseException) -> None:
        """result.json of a run that ended before it had opened its directory, unless another process works there.

        What is told of an earlier run stays; a restart's end is told in place of that of the attempt before it.
        """
        known = read_json(self.folder / "result.json")
        if not self.meeting.world.is_main or known.get("status") == "done" or (known and not restarts()):
            return
        try:
            directory = RunDirectory.open(str(self.folder), self.folder.name)
        except ConfigError:
            return
        error = cause if isinstance(cause, DnntrainError) else RankError(f"{type(cause).__name__}: {cause}")
        directory.write_result(ended(error, self.folder))
        directory.close()

    def _first(self, error: BaseException) -> Failure:
        """The failure that all ranks end with: the one that was first."""
        own = Failure.of(error, self.meeting.world.rank)
        told = isinstance(error, DnntrainError) and not isinstance(error, Stopped)
        broken = isinstance(error, DistError) or (isinstance(error, RuntimeError) and _BROKEN.search(str(error)))
        if told or not (broken or isinstance(error, Stopped)):
            return self.meeting.fail(own)
        # A broken collective is the echo of what happened elsewhere; and who starts ranks signals them once one has ended.
        saved = isinstance(error, Stopped) and error.saved
        known = self.meeting.failure(0.0 if saved else _CAUSE_S if broken else 1.0)
        if known is not None:
            return known
        if self.watch is not None and (apart := self.watch.out_of_touch):
            leave_agent()
            return Failure(own.rank, own.host, "lost", RankError.exit_code, apart, OUT_OF_TOUCH_HINT)
        if broken:
            late = re.search("timed out|timeout", str(error), re.IGNORECASE)
            met = "waited for another rank until the deadline" if late else "lost its connection to another rank"
            text = f"rank {own.rank} on {own.host} {met}: {str(error).splitlines()[0]}"
            hint = f"stacks of all ranks: {self.folder}/logs/stacks-rank_*.txt; the deadline is launch.timeout"
            kind = "hung" if late else "lost"
            own = Failure(own.rank, own.host, kind, RankError.exit_code, text, hint if late else "")
        return self.meeting.fail(own)

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Outside of the steps: a signal ends the run there, unless it is ending already."""

        def end(number: int, frame: object) -> None:
            if self._ending:
                return
            self._ending = True
            text = f"{signal.Signals(number).name}: stopped; what was saved before is kept"
            hint = f"go on with: dnntrain resume {self.folder}"
            raise Interrupted(text, hint) if number == signal.SIGINT else Preempted(text, hint)

        with handled(end):
            yield


def train_together(configured: Callable[[], RunConfig], world: World, body: Body) -> dict[str, Any]:
    """`body(config, ranks)` on every rank, with the main rank's configuration and run directory.

    Raises one and the same error on all ranks where one of them cannot go on.
    """
    from dnntrain.utils.hardware import detect

    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    meeting = Meeting.join(world)
    try:
        meeting.agree("versions", versions())
        config = _shared(meeting, configured)
        folder = Path(str(config.run_dir))
        with log_of_rank(folder, world):
            ranks = Ranks(meeting, folder)
            device = detect(config.device).device
            timeout_s = float(config.launch.timeout.value)
            with ranks.ended_by_signals(), _watched(ranks, timeout_s, config):
                try:
                    collectives.start(world, device, meeting.store, timeout_s)
                    return body(config, ranks)
                except BaseException as error:
                    cause = ranks.cause(error)
                    if cause is error:
                        raise
                    raise cause from None
                finally:
                    collectives.stop()
    finally:
        meeting.left()


def versions() -> dict[str, str]:
    """What must be the same on all nodes for their numbers to be."""
    import torch

    from dnntrain import __version__

    return {"python": platform.python_version(), "torch": torch.__version__, "dnntrain": __version__}


def write_failure(folder: Path, failure: Failure) -> None:
    """logs/failure.json: why the ranks ended, for who started them."""
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "logs" / "failure.json", failure.as_bytes())
    except OSError:
        return


def restarts() -> int:
    """How often this run was started again after a rank was lost: by dnntrain, by torchrun or by Slurm."""
    names = ("DNNTRAIN_RESTART", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name) or 0) for name in names)


def _shared(meeting: Meeting, configured: Callable[[], RunConfig]) -> RunConfig:
    """The main rank's configuration and run directory, on every rank."""
    config = meeting.together("configuration", configured)
    place = meeting.together("place", lambda: _place(meeting, config) if meeting.world.is_main else {})
    received = json.loads(meeting.from_main("configuration", lambda: json.dumps({**config.resolved, **place}).encode()))
    return meeting.together("decoding", lambda: decode(received))


def _place(meeting: Meeting, config: RunConfig) -> dict[str, str]:
    """run_dir, the same one after a restart by torchrun; and resume, which then goes on from the run's own checkpoints."""
    global _trained_before
    key = f"dnntrain/run_dir/{_trained_before}"
    _trained_before += 1
    place = config.run_dir or f"runs/{config.name}/{time.strftime('%Y%m%d-%H%M%S')}"
    if restarts() and meeting.root.check([key]):
        place = meeting.root.get(key).decode()
    elif restarts() and not config.run_dir:
        raise ConfigError(
            "the ranks were started again, and nothing tells which run directory they had: the node that knew it is gone",
            "set run_dir=FOLDER, one that all nodes see: the ranks then go on from its last checkpoint",
        )
    folder = Path(place).expanduser().absolute()
    meeting.root.set(key, str(folder))
    begun = restarts() > 0 and (folder / "checkpoints" / "LAST").is_file()
    return {"run_dir": str(folder), "resume": "auto" if begun else config.resume}


@contextmanager
def _watched(ranks: Ranks, timeout_s: float, config: RunConfig) -> Iterator[None]:
    watch = Watch(ranks.meeting, timeout_s, ranks.folder / "logs", lambda failure: _end(ranks, failure))
    ranks.watch = watch
    watch.start()
    try:
        yield
    finally:
        watch.close()


def _end(ranks: Ranks, failure: Failure) -> None:
    """The training thread is stuck in a collective: what it would write and say is written and said here."""
    world = ranks.meeting.world
    write_failure(ranks.folder, failure)
    error = failure.error()
    if failure.rank == world.rank and failure.kind == "lost":
        print(f"dnntrain: {error}", file=sys.stderr, flush=True)
        leave_agent(now=True)
        return
    first = 1 if failure.kind in ("hung", "lost") and failure.rank == 0 else 0
    if world.rank == first:
        path = ranks.folder / "result.json"
        if not read_json(path):
            write_json(path, ended(error, ranks.folder))
        if failure.kind == "hung":
            show_stacks(ranks.folder / "logs")
        print(f"dnntrain: {error}", file=sys.stderr, flush=True)


def leave_agent(now: bool = False) -> None:
    """Ends torchrun's agent once this process has ended, where the store of the rendezvous is out of reach and no restart is left.

    The agent waits for that store for as long as TCP tries, about 15 minutes, and its ranks' exit codes would wait with it.
    """
    left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if "TORCHELASTIC_RUN_ID" not in os.environ or left > 0 or os.environ.get("LOCAL_RANK") != "0":
        return
    if now:
        os.kill(os.getppid(), signal.SIGKILL)
    else:
        atexit.register(os.kill, os.getppid(), signal.SIGKILL)


def show_stacks(logs: Path) -> None:
    """Shows the stacks of all ranks, unless a parent will."""
    time.sleep(_STACKS_S)
    if "DNNTRAIN_RESTART" not in os.environ:
        print(stacks(logs), file=sys.stderr)


def ended(error: DnntrainError, folder: Path) -> dict[str, Any]:
    """result.json of a run that could not write its own."""
    return {"status": error.status, "reason": error.message, "exit_code": error.exit_code, "run_dir": str(folder)}


@contextmanager
def log_of_rank(folder: Path, world: World) -> Iterator[None]:
    """All that another than the main rank says goes to logs/rank_N.log, also what libraries and faults write."""
    if world.is_main:
        yield
        return
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with (folder / "logs" / f"rank_{world.rank}.log").open("a", encoding="utf-8") as file:
        print(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}",
            file=file,
            flush=True,
        )
        for number, _ in kept:
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
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
