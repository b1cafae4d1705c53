"""Keep torch imported between trials: `python -m dnntrain.sweep.trial_server PARENT`.

Only the sweep starts it. For each request, a line of JSON on standard input, the server forks a process
that trains one trial, answers `{"pid": …}`, and at its end `{"exit": …}`. The server itself never runs
anything: each trial begins with the memory of a process that has only imported modules.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dnntrain.utils.early_exit import exit_at_once_on_signals, ignore_signals_until_exit
from dnntrain.utils.forked_process import fork_process

#: Packages whose modules hold no state of a run. Those of users and plug-ins are imported by each trial.
_SHARED_PACKAGES = ("dnntrain", "torch", "torchvision", "torchao", "timm", "numpy", "PIL", "matplotlib", "safetensors")
#: Its import starts processes.
_LEFT_OUT = "torch._inductor"
_MAX_MESSAGE_BYTES = 60_000


def main() -> int:
    """Serve requests until the sweep closes the input."""
    from dnntrain.utils.processes import die_with_parent

    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    importlib.import_module("dnntrain.run.runner")
    for line in sys.stdin:
        status = _serve(json.loads(line), answers)
        if status is not None:
            return status
    return 0


def _serve(request: Mapping[str, Any], answers: IO[str]) -> int | None:
    """Fork the process of a trial and wait for its end; in that process, return its exit code."""
    receiver, sender = os.pipe()
    server = os.getpid()
    process = fork_process(request["environ"])
    if process is None:
        answers.close()
        os.close(receiver)
        return _train(request, server, sender)
    os.close(sender)
    print(json.dumps({"pid": process.pid}), file=answers, flush=True)
    print(json.dumps({"exit": process.wait()}), file=answers, flush=True)
    # Processes that the trial has left behind may hold the other end open.
    os.set_blocking(receiver, False)
    with os.fdopen(receiver, "rb") as pipe, suppress(BlockingIOError):
        _import_modules(os.read(pipe.fileno(), _MAX_MESSAGE_BYTES))
    return None


def _train(request: Mapping[str, Any], server: int, sender: int) -> int:
    """Train the trial of a request, as `dnntrain.sweep.worker` does in a process of its own."""
    from dnntrain.sweep.processes import mark_process
    from dnntrain.utils.processes import die_with_parent

    exit_at_once_on_signals()
    mark_process(Path(request["folder"]))
    die_with_parent(server, signal.SIGTERM)
    _redirect(Path(request["folder"]) / "output.txt")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    sys.argv = ["dnntrain.sweep.worker", request["folder"]]
    from dnntrain.run.worker import main as train

    known = set(sys.modules)
    exit_code = train()
    names = [name for name in sys.modules if name not in known and _is_shared(name)]
    with suppress(OSError):
        os.write(sender, "\n".join(names).encode()[:_MAX_MESSAGE_BYTES])
    ignore_signals_until_exit()
    return exit_code


def _redirect(path: Path) -> None:
    from dnntrain.utils.files import open_file

    with open_file(path, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _is_shared(name: str) -> bool:
    return name.partition(".")[0] in _SHARED_PACKAGES and not name.startswith(_LEFT_OUT)


def _import_modules(names: bytes) -> None:
    """Import what a trial has imported, for those after it. The last name may be cut off."""
    for name in names.decode(errors="ignore").split("\n"):
        if name and _is_shared(name):
            with suppress(Exception):
                importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
