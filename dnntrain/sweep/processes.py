"""Start, find and end the processes of trials.

Each trial has its own session. An environment variable marks all processes of a trial.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dnntrain.utils.files import open_file

#: The environment variable that all processes of a trial inherit. Its value is the trial's folder.
MARK_VARIABLE = "DNNTRAIN_TRIAL"


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


def find_processes(folder: Path) -> list[int]:
    """Return the live processes with the mark of `folder`.

    They are the trial, its ranks and their data workers.
    """
    mark_entry = f"{MARK_VARIABLE}={folder}".encode()
    process_ids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark_entry in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                process_ids.append(int(entry.name))
    return process_ids


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
