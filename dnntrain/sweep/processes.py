"""Processes of trials: started in sessions of their own, found again by a mark, ended with all they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: The environment variable that all processes of a trial inherit. Its value is the trial's folder.
MARK = "DNNTRAIN_TRIAL"


def start(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts the trial of `folder`; what it says is added to output.txt there."""
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command,
            env={**environ, MARK: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def marked(folder: Path) -> list[int]:
    """The live processes that bear the mark of `folder`: the trial, its torchrun, its ranks and their readers."""
    wanted = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def end_all(folder: Path, patience_s: Sequence[float] = (0.0, 5.0, 5.0)) -> int:
    """Ends what is left of the trial of `folder`, and returns the number of processes that it had to signal.

    Waits for them, then sends SIGTERM, then SIGKILL, for as many seconds each.
    """
    signalled: set[int] = set()
    for number, seconds in zip((None, signal.SIGTERM, signal.SIGKILL), patience_s, strict=True):
        if number is not None:
            for process in marked(folder):
                signalled.add(process)
                with suppress(OSError):
                    os.kill(process, number)
        until = time.monotonic() + seconds
        while left := marked(folder):
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
        if not left:
            break
    return len(signalled)
