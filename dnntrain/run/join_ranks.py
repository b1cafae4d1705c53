"""The meeting of the ranks of a run, from the first connection to the last word."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from dnntrain.config.decode import decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed import collectives
from dnntrain.distributed.failure import Failure
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.distributed.watchdog import Watchdog
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.planning.parallelism import check_gpu_count
from dnntrain.run.directory import get_log_path
from dnntrain.run.rank_group import (
    RankGroup,
    failed_result,
    get_versions,
    kill_torchrun_agent_at_exit,
    restart_count,
    show_stacks,
    write_failure,
)
from dnntrain.utils.files import make_folder, open_file
from dnntrain.utils.json_files import read_json
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.signals import raise_on_signals, unblock_signals
from dnntrain.utils.world import World, read_local_size

Value = TypeVar("Value")

_num_earlier_runs = 0


@contextmanager
def join_rank_group(make_config: Callable[[], RunConfig], world: World) -> Iterator[tuple[RunConfig, RankGroup]]:
    """Meet the other ranks: (the main rank's configuration with its run directory, the group).

    If the body fails on one rank, the same error is raised on all of them.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    rendezvous = Rendezvous.join(world)
    try:
        rendezvous.check_agreement("versions", get_versions())
        config, start_key = _share_config(rendezvous, make_config)
        folder, timeout_s = Path(str(config.run_dir)), float(config.launch.hang_timeout.value)
        rendezvous.allow_silence(timeout_s)
        with ExitStack() as stack:
            _record_failure(
                rendezvous, folder, "log", lambda: stack.enter_context(redirect_output_to_log(folder, world))
            )
            device = _record_failure(rendezvous, folder, "device", lambda: _find_device(config, world))
            rank_group = RankGroup(rendezvous, folder, start_key)
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


def _record_failure(rendezvous: Rendezvous, folder: Path, name: str, body: Callable[[], Value]) -> Value:
    """Return the result of `body` if it succeeds on all ranks; else write the failure for the process that started them."""
    try:
        return rendezvous.run_on_all_ranks(name, body)
    except DnntrainError as error:
        write_failure(folder, Failure.from_error(error, rendezvous.world.rank))
        raise


def _find_device(config: RunConfig, world: World) -> str:
    """Return the type of the device of this rank. Raises ConfigError if this machine has fewer GPUs than ranks."""
    from dnntrain.utils.hardware import probe_hardware

    hardware = probe_hardware(config.device)
    check_gpu_count(config, hardware, max(world.local_rank + 1, read_local_size() or 0))
    return hardware.device


def _share_config(rendezvous: Rendezvous, make_config: Callable[[], RunConfig]) -> tuple[RunConfig, str]:
    """Return (the main rank's configuration with its run directory, the key of `RankGroup.record_start`)."""
    global _num_earlier_runs
    number = _num_earlier_runs
    _num_earlier_runs += 1
    config = rendezvous.run_on_all_ranks("configuration", make_config)
    start_key = f"dnntrain/started/{number}"
    run_fields = rendezvous.run_on_all_ranks(
        "place", lambda: _choose_run_dir(rendezvous, config, number, start_key) if rendezvous.world.is_main else {}
    )
    main_config = json.loads(
        rendezvous.broadcast_from_main("configuration", lambda: json.dumps({**config.resolved, **run_fields}).encode())
    )
    return rendezvous.run_on_all_ranks("decoding", lambda: decode_config(main_config)), start_key


def _choose_run_dir(rendezvous: Rendezvous, config: RunConfig, number: int, start_key: str) -> dict[str, str]:
    """Return run_dir, the same one after a restart by torchrun, and resume.

    After a restart the run resumes from its own checkpoints. Until it has removed those of an
    earlier run, `resume` is the one of the configuration. If the node that recorded the start is
    gone, the checkpoints count as its own.
    """
    key = f"dnntrain/run_dir/{number}"
    run_dir = config.run_dir or f"runs/{config.name}/{time.strftime('%Y%m%d-%H%M%S')}"
    has_record = restart_count() > 0 and rendezvous.root.check([key])
    if has_record:
        run_dir = rendezvous.root.get(key).decode()
    elif restart_count() and not config.run_dir:
        raise ConfigError(
            "the ranks were restarted, and their run directory is unknown because the node that recorded it is gone",
            "set run_dir=FOLDER on a file system that all nodes share: the ranks then resume from its last checkpoint",
        )
    folder = Path(run_dir).expanduser().absolute()
    rendezvous.root.set(key, str(folder).encode())
    has_checkpoint = restart_count() > 0 and (folder / "checkpoints" / "LAST").is_file()
    has_started = not has_record or rendezvous.root.check([start_key])
    return {"run_dir": str(folder), "resume": "auto" if has_checkpoint and has_started else config.resume}


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
