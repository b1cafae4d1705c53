"""The folder of one run: its name, its lock, its files."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dnntrain.errors import ConfigError, FileKindError
from dnntrain.planning.checks.paths import check_holds_no_data
from dnntrain.run.environment import collect_environment
from dnntrain.utils.files import check_folder, make_folder, open_file, remove_leftovers, write_text
from dnntrain.utils.json_files import write_json
from dnntrain.utils.sealed_json import METRICS_SEAL, compute_file_digest, write_sealed_json
from dnntrain.utils.terminal_text import clean_text
from dnntrain.utils.words import join_words


class RunDirectory:
    """A run's folder, locked while this process works in it.

    A second process cannot open it; the error names the holder of the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None
        self._log: TextIO | None = None

    @classmethod
    def open(cls, run_dir: str | None, name: str) -> RunDirectory:
        """Create, check and lock the folder `run_dir`, or a new one `runs/NAME/ID`.

        Raises ConfigError if it cannot be created or written, if it holds data, or if another process
        works in it.
        """
        path = Path(run_dir).expanduser().absolute() if run_dir else make_run_folder(Path("runs").absolute(), name)
        if path == Path(path.anchor):
            raise ConfigError(f"run_dir={run_dir} is the root of the file system", "name another folder")
        check_holds_no_data(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            make_folder(path / "checkpoints")
            for name in ("logs", "traces"):
                check_folder(path / name)
        except FileKindError:
            raise
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"run_dir={path} cannot be created: {error}", "name a folder that can be written"
            ) from None
        directory = cls(path)
        directory._acquire_lock()
        return directory

    def _acquire_lock(self) -> None:
        self._lock = _lock_file(self.path)
        remove_leftovers(self.checkpoints)
        self._log = open_file(self.path / "log.txt", "a", encoding="utf-8", errors="backslashreplace")

    def log(self, text: str) -> None:
        """Add a line to log.txt, with the time."""
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {clean_text(text)}\n")
            self._log.flush()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
        if self._log is not None:
            self._log.close()
        self._lock = self._log = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_start(self, config: Mapping[str, Any], overrides: list[str], plan: Mapping[str, Any]) -> None:
        """Write config.yaml, overrides.txt, plan.json and env.json."""
        from dnntrain.config.saved_config import write_saved_config

        write_saved_config(self.path, config)
        write_text(self.path / "overrides.txt", join_words(overrides))
        write_sealed_json(self.path / "plan.json", plan)
        write_json(self.path / "env.json", collect_environment())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, with its own checksum and the one of the rows of metrics."""
        digest = compute_file_digest(self.path / "metrics.jsonl")
        write_sealed_json(self.path / "result.json", {**result, **({} if digest is None else {METRICS_SEAL: digest})})

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints of an earlier run, and no other file.

        For a run that begins from step 0 in the folder of another one.
        """
        from dnntrain.checkpoint.checkpoint_folder import remove_checkpoints

        remove_checkpoints(self.checkpoints)

    def remove_later_checkpoints(self, step: int) -> None:
        """Remove the checkpoints of later steps than `step`."""
        from dnntrain.checkpoint.checkpoint_folder import truncate_checkpoints

        truncate_checkpoints(self.checkpoints, step)


def get_log_path(path: Path, rank: int) -> Path:
    """Return the file for the output of a rank other than the main one."""
    return path / "logs" / f"rank_{rank}.log"


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Create and lock the folder `path`.

    Raises ConfigError if it cannot be created, if it holds data, or if another process works in it.
    """
    check_holds_no_data(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be created: {error}", "name a folder that can be written") from None
    with _lock_file(path):
        yield


def _lock_file(path: Path) -> TextIO:
    """Return the lock of the folder `path`, held until it is closed; it names this process."""
    import fcntl

    try:
        lock = open_file(path / ".lock", "a+", encoding="utf-8", errors="replace")
    except FileKindError:
        raise
    except OSError as error:
        raise ConfigError(f"run_dir={path} cannot be written: {error}", "name another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ConfigError(f"{path} is in use by {holder}", "wait for it, or name another run_dir") from None
    remove_leftovers(path)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    # A child that reads data may outlive a killed parent by seconds, and must not keep the lock.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock.close)
    return lock


def make_run_folder(runs: Path, name: str) -> Path:
    """Create a new folder runs/NAME/ID.

    The ID is the time, plus a random part if two runs start in the same second.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for run_id in (stamp, *(f"{stamp}-{secrets.token_hex(2)}" for _ in range(100))):
        try:
            (runs / name / run_id).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"{runs / name} cannot be created: {error}", "set run_dir to a folder that can be written"
            ) from None
        return runs / name / run_id
    raise ConfigError(f"no free name under {runs / name}", "set run_dir")
