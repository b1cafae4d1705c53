"""Start, find and end the processes of trials.

Each trial has its own session. An environment variable marks all processes of a trial.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dnntrain.utils.files import open_file
from dnntrain.utils.processes import name_process

#: The environment variable that all processes of a trial inherit. Its value is the trial's folder.
MARK_VARIABLE = "DNNTRAIN_TRIAL"

#: Seconds between two looks at a process that starts a program.
_START_PAUSES_S = (0.001, 0.004, 0.016)


def start_process(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the trial of `folder`; its output is appended to output.txt there."""
    with open_file(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            command,
            env={**environ, MARK_VARIABLE: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def mark_process(folder: Path) -> None:
    """Mark this forked process by its name: the kernel shows the environment that its server began with."""
    name_process(_make_process_name(folder))


def _make_process_name(folder: Path) -> str:
    return f"dnn:{hashlib.sha256(str(folder).encode()).hexdigest()[:11]}"


def find_processes(folder: Path) -> list[int]:
    """Return the live processes with the mark of `folder`.

    They are the trial, its ranks and their data workers.
    """
    mark_entry, name = f"{MARK_VARIABLE}={folder}".encode(), _make_process_name(folder).encode()
    process_ids = []
    for entry, environment in _read_environments():
        with suppress(OSError):
            if mark_entry in environment or _is_named(entry, name):
                process_ids.append(int(entry.name))
    return [process_id for process_id in process_ids if process_id != os.getpid()]


def _read_environments() -> Iterator[tuple[Path, list[bytes]]]:
    """Yield the folder in /proc of each process that may be read, and the entries of its environment.

    While a process starts a program its environment is empty for a moment: such a process is read again.
    """
    entries = list(Path("/proc").glob("[0-9]*"))
    for pause_s in (*_START_PAUSES_S, None):
        starting = []
        for entry in entries:
            with suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if environment or pause_s is None or not _has_program(entry):
                    yield entry, environment.split(b"\0")
                else:
                    starting.append(entry)
        if not starting:
            return
        entries = starting
        time.sleep(pause_s or 0)


def _has_program(entry: Path) -> bool:
    """Return whether a process runs a program: one that has ended and a thread of the kernel do not."""
    try:
        (entry / "exe").readlink()
        return True
    except OSError:
        return False


def _is_named(entry: Path, name: bytes) -> bool:
    """Return whether a live process has a name; one that waits for its parent has ended."""
    text = (entry / "stat").read_bytes()
    shown_name, _, state = text.partition(b"(")[2].rpartition(b") ")
    return shown_name == name and state[:1] not in (b"Z", b"X")


def end_processes(folder: Path, patience_s: Sequence[float] = (0.0, 5.0, 5.0)) -> int:
    """End the remaining processes of the trial of `folder`.

    Return the number of signaled processes. Waits, then sends SIGTERM, then SIGKILL; `patience_s`
    are the seconds to wait after each.
    """
    signaled_ids: set[int] = set()
    for signal_number, seconds in zip((None, signal.SIGTERM, signal.SIGKILL), patience_s, strict=True):
        if signal_number is not None:
            for process_id in find_processes(folder):
                signaled_ids.add(process_id)
                with suppress(OSError):
                    os.kill(process_id, signal_number)
        deadline = time.monotonic() + seconds
        while remaining_ids := find_processes(folder):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if not remaining_ids:
            break
    return len(signaled_ids)
