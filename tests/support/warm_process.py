"""Start the command in a process that is forked from one with torch imported, which saves seconds of imports.

It is a process of its own with its own signals, environment and output: only the imports are not repeated, and the
seed of Python's hashes is that of the server.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from short_runs import environment

_HERE = Path(__file__).resolve()
_PRELOADED = ("dnntrain.run.runner", "torch._dynamo", "torchvision.transforms.v2", "PIL.Image", "antlr4", "hydra")
#: Modules that do something when they are imported, or need an extra.
_NOT_PRELOADED = ("__main__", "_app", "onnx", "openvino")


class WarmProcess:
    """A process of the command, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, words: tuple[str, ...], cwd: Path | None = None, **environ: str) -> None:
        self.args = words
        self.returncode: int | None = None
        self._output = self._errors = ""
        self._folder = tempfile.TemporaryDirectory()
        request = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "environ": {**environment(), **environ},
            "output": self._folder.name,
        }
        self._connection = _Server.connect()
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        self._lines = self._connection.makefile("r")
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit code; that of a signal is negative."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
            self._output, self._errors = (Path(self._folder.name, name).read_text() for name in ("output", "errors"))
            self._folder.cleanup()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end of the process and return what it has written to its output and error output."""
        self.wait(timeout)
        return self._output, self._errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.wait(60)


def run_warm(
    words: tuple[str, ...], cwd: Path | None = None, timeout_s: float = 120, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it wrote."""
    with WarmProcess(words, cwd, **environ) as process:
        output, errors = process.communicate(timeout_s)
        assert process.returncode is not None
        return subprocess.CompletedProcess(list(words), process.returncode, output, errors)


class _Server:
    """The server of this process; it is started once, and ends with it."""

    _path: Path | None = None

    @classmethod
    def connect(cls) -> socket.socket:
        if cls._path is None:
            folder = tempfile.TemporaryDirectory()
            cls._path = Path(folder.name) / "server"
            server = subprocess.Popen(
                [sys.executable, str(_HERE), str(cls._path)],
                stdin=subprocess.PIPE,
                env={**environment(), "PYTHONPATH": f"{_HERE.parents[2]}{os.pathsep}{_HERE.parent}"},
            )
            atexit.register(folder.cleanup)
            atexit.register(server.communicate)
            while not cls._path.exists():
                assert server.poll() is None
                time.sleep(0.01)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(cls._path))
        return connection


def _serve(path: Path) -> None:
    """Fork a process for each request until the standard input is closed; return in each of these processes."""
    import dnntrain

    own = [module.name for module in pkgutil.walk_packages(dnntrain.__path__, "dnntrain.")]
    for name in (*_PRELOADED, *(name for name in own if not any(part in name for part in _NOT_PRELOADED))):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    path_before = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path_before))
    listener.listen()
    path_before.rename(path)
    ended, wakes = socket.socketpair()
    for end in (ended, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    children: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (listener, ended, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if sys.stdin in ready:
                break
            if ended in ready:
                ended.recv(4096)
                _report_ends(children)
            if listener in ready:
                connection, _ = listener.accept()
                request = json.loads(connection.makefile("r").readline())
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    _become(request)
                    for source in (listener, ended, wakes, connection, *children.values()):
                        source.close()
                    return
                children[pid] = connection
                connection.sendall(f"{pid}\n".encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _report_ends(children: dict[int, socket.socket]) -> None:
    for pid, connection in list(children.items()):
        ended_pid, status = os.waitpid(pid, os.WNOHANG)
        if ended_pid:
            with contextlib.suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            connection.close()
            del children[pid]


def _become(request: Mapping[str, Any]) -> None:
    """Make this process what `python -m dnntrain WORDS` is after its imports."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, name in ((1, "output"), (2, "errors")):
        with Path(request["output"], name).open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(request["cwd"])
    left_out = {str(_HERE.parent), *os.environ["PYTHONPATH"].split(os.pathsep)}
    os.environ.clear()
    os.environ.update(request["environ"])
    given = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = [request["cwd"], *given, *(entry for entry in sys.path if entry not in left_out)]
    importlib.invalidate_caches()
    random.seed()
    sys.argv = [str(_HERE.parents[2] / "dnntrain" / "__main__.py"), *request["words"]]


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
    from dnntrain.__main__ import main

    main()
