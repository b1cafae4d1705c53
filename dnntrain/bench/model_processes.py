"""Start processes that each hold one model, and send requests to them.

Memory and loading are thus measured per model, and timings interleave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from dnntrain.errors import CheckpointError
from dnntrain.utils.threads import PASSIVE_WAIT

#: The module that a child process runs.
_WORKER_MODULE = "dnntrain.bench.worker"


class ModelProcess:
    """One process with one model. `ask` sends a request, and waits for the reply."""

    def __init__(self, name: str, request: Mapping[str, Any], threads: int) -> None:
        self.name = name
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **PASSIVE_WAIT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER_MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **variables},
        )
        self._load_request = {**request, "threads": threads}
        self.load_info: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        """Load the model and return its load info.

        Raises CheckpointError if it cannot be loaded.
        """
        self.load_info = self.ask(self._load_request)
        return self.load_info

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to `request`.

        Raises CheckpointError with the reason if the process failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(OSError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise CheckpointError(f"{self.name}: the benchmark process ended with code {code}", "memory may be full")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise CheckpointError(f"{self.name}: {reply['error']}", str(reply.get("hint", "")))
        return reply

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
