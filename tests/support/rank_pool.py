"""A pool of rank processes that stay alive for a whole test session: importing torch costs seconds a process.

`Pool.train(ranks, overrides, run_dir)` trains as torchrun would have it, in real processes that form a real gloo group for that run alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from short_runs import environment

_HERE = Path(__file__).resolve()

#: Threads of a worker after which all are replaced: torch keeps some groups alive, and their threads poll.
_MAX_THREADS = 40

#: Seconds that the other ranks get to end by themselves once one has failed.
_GRACE_S = 10.0


@dataclass
class Outcome:
    """What the ranks of one run returned: the main rank's result, or the error of the first rank that failed."""

    result: dict[str, Any]
    error: str = ""
    exit_code: int = 0


class Pool:
    """Rank processes, started when a run first needs them; all are replaced after a run that a rank did not survive."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[str]] = []
        self._replies: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()

    def train(
        self,
        ranks: int,
        overrides: list[str] | tuple[str, ...],
        run_dir: Path,
        timeout_s: float = 120,
        plugin: Path | None = None,
    ) -> Outcome:
        """Trains `overrides` on `ranks` processes; one rank is a run in one process without a group.

        `plugin` is a folder with a plug-in package, as `pip install` leaves it.
        """
        folder = None if plugin is None else str(plugin)
        words = [*overrides, f"run_dir={run_dir}"]
        return self.call({"do": "train", "overrides": words, "plugin": folder}, ranks, timeout_s)

    def call(self, task: dict[str, Any], ranks: int, timeout_s: float = 120) -> Outcome:
        """Gives `task` to `ranks` workers and waits for all of them."""
        self._start(ranks)
        port = _free_port()
        for rank in range(ranks):
            pipe = self._workers[rank].stdin
            assert pipe is not None
            pipe.write(json.dumps({**task, "rank": rank, "ranks": ranks, "port": port}) + "\n")
            pipe.flush()
        replies: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + timeout_s
        while len(replies) < ranks:
            try:
                rank, reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                missing = sorted(set(range(ranks)) - set(replies))
                replies |= {rank: _died(f"rank {rank} did not answer within {timeout_s} s") for rank in missing}
                break
            replies[rank] = reply or _died(f"rank {rank} died")
            if "error" in replies[rank]:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        if any(reply.get("died") or reply.get("threads", 0) > _MAX_THREADS for reply in replies.values()):
            self.close()
        errors = [reply for reply in replies.values() if "error" in reply]
        for error in sorted(errors, key=lambda error: bool(error.get("died"))):
            return Outcome({}, error["error"], error["exit_code"])
        return Outcome(replies[0]["result"])

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
            assert worker.stdin is not None
            worker.stdin.close()
        self._workers = []
        self._replies = queue.Queue()

    def _start(self, ranks: int) -> None:
        for rank in range(len(self._workers), ranks):
            worker = subprocess.Popen(
                [sys.executable, str(_HERE), "worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**environment(), "PYTHONPATH": f"{_HERE.parents[2]}{os.pathsep}{_HERE.parent}"},
            )
            self._workers.append(worker)
            threading.Thread(target=self._listen, args=(rank, worker, self._replies), daemon=True).start()

    def _listen(self, rank: int, worker: subprocess.Popen[str], replies: queue.Queue[Any]) -> None:
        assert worker.stdout is not None
        with worker.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    replies.put((rank, json.loads(line)))
        replies.put((rank, None))


def _died(text: str) -> dict[str, Any]:
    return {"error": text, "exit_code": 1, "died": True}


#: Below the ports that the system hands out by itself, begun elsewhere in each process: pools side by side do not take each other's.
_ports = itertools.cycle(range(10000, 32000))
for _ in range(os.getpid() * 97 % 22000):
    next(_ports)


def _free_port() -> int:
    for port in _ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("ports never end")


def _worker() -> None:
    import torch

    from dnntrain.errors import DnntrainError

    torch.set_num_threads(1)
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        if task["ranks"] > 1:
            os.environ.update(
                RANK=str(task["rank"]),
                LOCAL_RANK=str(task["rank"]),
                WORLD_SIZE=str(task["ranks"]),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(task["port"]),
            )
        else:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                os.environ.pop(name, None)
        try:
            reply = {"result": _TASKS[task["do"]](task)}
        except DnntrainError as error:
            reply = {"error": str(error), "exit_code": error.exit_code}
        except BaseException as error:
            import traceback

            reply = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}", "exit_code": 1}
        from dnntrain.distributed import collectives

        collectives.leave_process_group()
        reply["threads"] = len(list(Path("/proc/self/task").glob("*")))
        print(json.dumps(reply, default=str), file=talk, flush=True)


def _train(task: dict[str, Any]) -> dict[str, Any]:
    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode_config
    from dnntrain.run.runner import run_training
    from dnntrain.utils.world import World

    plugin = task.get("plugin")
    sys.path[:0] = [plugin] if plugin else []
    try:
        config = decode_config(compose(task["overrides"]))
        return run_training(lambda: config, World.from_environ(), display="quiet").as_json()
    finally:
        if plugin:
            sys.path.remove(plugin)


def _main(task: dict[str, Any]) -> dict[str, Any]:
    from dnntrain.cli.main import main

    return {"exit_code": main(task["words"])}


_TASKS = {"train": _train, "main": _main}

if __name__ == "__main__":
    _worker()
