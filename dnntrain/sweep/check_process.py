"""Check trials in a process that imports torch while this one composes them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from dnntrain.utils.hardware import count_cores
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.signals import blocked_signals, unblock_signals

_T = TypeVar("_T")


class CheckProcess:
    """A process that calls functions of modules that import torch.

    The caller's process calls them itself if another one would gain nothing: on one core, with torch
    imported, and on systems other than Linux. It also does so after the other process has ended.
    """

    def __init__(self, is_useful: bool = True) -> None:
        self._connection: Connection | None = None
        if is_useful and sys.platform == "linux" and count_cores() > 1 and "torch" not in sys.modules:
            context = multiprocessing.get_context("fork")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._connection, other, os.getpid()), daemon=True)
            with blocked_signals():
                self._process.start()
            other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return what the function returns. It must not raise; it and its arguments must be picklable."""
        if self._connection is not None:
            try:
                self._connection.send((function, arguments))
                value: _T = self._connection.recv()
            except (EOFError, OSError):
                self._close()
            else:
                return value
        return function(*arguments)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._process.terminate()
            self._process.join()


def _serve(parents_end: Connection, connection: Connection, parent: int) -> None:
    """Import torch, and answer until the parent closes its end. After an error the parent calls the function itself."""
    parents_end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this process
    unblock_signals()
    die_with_parent(parent, signal.SIGTERM)
    with suppress(Exception):
        importlib.import_module("torch")
        while True:
            function, arguments = connection.recv()
            connection.send(function(*arguments))
    # The parent's own cleanup at exit is not for this process.
    os._exit(0)
