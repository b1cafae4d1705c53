"""The folder of one run: its name, its lock, its files."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dnntrain.checkpoint.store import plain_json, write_json, write_text
from dnntrain.errors import ConfigError

_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NO_COLOR", "SLURM_JOB_ID", "TORCH_LOGS")
_PACKAGES = ("dnntrain", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors", "pillow", "timm")


class RunDirectory:
    """A run's folder, locked while this process works in it. Opening a second time is refused, naming who holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None
        self._log: TextIO | None = None

    @classmethod
    def open(cls, run_dir: str | None, name: str) -> RunDirectory:
        """The folder `run_dir`, or a new one `runs/NAME/ID`; made, checked for writing, and locked.

        Raises ConfigError where it cannot be made or written, or where another process works in it.
        """
        path = Path(run_dir).expanduser().absolute() if run_dir else _new_folder(Path("runs").absolute(), name)
        if path == Path(path.anchor):
            raise ConfigError(f"run_dir={run_dir} is the root of the file system", "name a folder of its own")
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "checkpoints").mkdir(exist_ok=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"run_dir={path} cannot be made: {error}", "name a folder that can be written") from None
        directory = cls(path)
        directory._acquire()
        return directory

    def _acquire(self) -> None:
        self._lock = _locked_file(self.path)
        self._log = (self.path / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")

    def log(self, text: str) -> None:
        """Adds a line to log.txt, with the time."""
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._log.flush()

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
        if self._log is not None:
            self._log.close()
        self._lock = self._log = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_start(self, config: Mapping[str, Any], overrides: list[str], plan: Mapping[str, Any]) -> None:
        """config.yaml, overrides.txt, plan.json and env.json."""
        from dnntrain.config.yamlfile import dump_yaml

        write_text(self.path / "config.yaml", dump_yaml(dict(config)))
        write_text(self.path / "overrides.txt", join_words(overrides))
        write_json(self.path / "plan.json", plan)
        write_json(self.path / "env.json", environment())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """result.json."""
        write_json(self.path / "result.json", dict(result))

    def clear_checkpoints(self) -> None:
        """Removes the checkpoints that an earlier run has left, and no other file, where a run begins anew in its folder."""
        from dnntrain.checkpoint.state import clear

        clear(self.checkpoints)

    def cut_back(self, step: int) -> None:
        """Removes the checkpoints of later steps than `step`."""
        from dnntrain.checkpoint.state import cut_back

        cut_back(self.checkpoints, step)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The folder `path`, made and locked. Raises ConfigError where it cannot be, or where another process works in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be made: {error}", "name a folder that can be written") from None
    with _locked_file(path):
        yield


def _locked_file(path: Path) -> TextIO:
    """The lock of the folder `path`, held until it is closed; it names this process."""
    import fcntl

    try:
        lock = (path / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"run_dir={path} cannot be written: {error}", "name another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ConfigError(f"{path} is in use by {holder}", "wait for it, or name another run_dir") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    # A reading process that outlives a kill of this one by some seconds must not hold the lock on.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock.close)
    return lock


def join_words(words: Sequence[str]) -> str:
    """One word a line. Words of plain characters stand as they are, for `dnntrain $(cat overrides.txt)`; others are quoted for xargs."""
    import re
    import shlex

    plain = re.compile(r"[^\s'\"\\]+")
    return "".join(f"{word if plain.fullmatch(word) else shlex.quote(word)}\n" for word in words)


def split_words(text: str) -> list[str]:
    """The words that `join_words` wrote."""
    import shlex

    return shlex.split(text)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(value) if isinstance(value, dict) else {}


def _new_folder(runs: Path, name: str) -> Path:
    """A new folder runs/NAME/ID; the ID is the time, and a random part where two runs start in one second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for identity in (stamp, *(f"{stamp}-{secrets.token_hex(2)}" for _ in range(100))):
        try:
            (runs / name / identity).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"{runs / name} cannot be made: {error}", "set run_dir to a folder that can be written"
            ) from None
        return runs / name / identity
    raise ConfigError(f"no free name under {runs / name}", "set run_dir")


def environment() -> dict[str, Any]:
    """What the result may depend on besides the configuration: code, packages, processor. Variables from an allow-list only."""
    from dnntrain.hardware import detect

    hardware = detect("cpu")
    found: dict[str, Any] = plain_json(
        {
            "argv": sys.argv[1:],
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": _versions(),
            "git": _git(),
            "cpu": {"model": hardware.cpu_model, "cores": hardware.cores, "features": hardware.cpu_features},
            "memory_bytes": hardware.memory_bytes,
            "variables": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        }
    )
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any]:
    """The commit of the working folder, and whether it has uncommitted changes; empty outside a repository."""
    import subprocess

    def ask(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}
