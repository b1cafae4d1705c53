"""Train a line in a process of its own, which ends with the search that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dnntrain.utils.processes import AGENT_VARIABLE

#: Seconds for a run to end after its signal.
_END_S = 60.0


def start_training(words: Sequence[str], config_dir: Path | None, messages: Path) -> subprocess.Popen[bytes]:
    """Start `dnntrain train` with `words`; the file `messages` gets its stderr.

    The process ends if this one does, even if this one is killed.
    """
    options = [] if config_dir is None else ["--config-dir", str(config_dir)]
    with messages.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "dnntrain", "train", *words, *options, "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, AGENT_VARIABLE: str(os.getpid())},
        )


def read_messages(messages: Path) -> str:
    """Return the text that a run wrote to stderr."""
    return messages.read_text(encoding="utf-8", errors="replace").strip()


def end_training(process: subprocess.Popen[bytes]) -> None:
    """End a run; a layout of several ranks ends with its main process."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return
        process.kill()
        process.wait()
