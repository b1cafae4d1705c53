"""Runs of two real ranks with faults in them, for the tests of launching."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from short_runs import environment

#: A network that does FAULT in its WHEN-th training pass on rank VICTIM (1), once for each file FAULT_ONCE where that is given.
NETWORK = """
import os, signal
from pathlib import Path
import torch
from dnntrain.errors import DataError

class Net(torch.nn.Module):
    def __init__(self, num_classes: int, image_height: int, image_width: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(image_height * image_width, num_classes))
        self.drop = torch.nn.Dropout(0.1)
        self.passes = 0
        if os.environ.get("RANK") == "1" and os.environ.get("FAULT") == "refuse at start":
            raise ImportError("a library of this node is gone")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if os.environ.get("RANK") == os.environ.get("VICTIM", "1") and self.passes == int(os.environ.get("WHEN", -1)):
            once = os.environ.get("FAULT_ONCE")
            if once is None or not Path(once).exists():
                if once is not None:
                    Path(once).touch()
                self.fault(os.environ["FAULT"])
        return self.drop(self.body(images))

    def fault(self, kind: str) -> None:
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind == "bug":
            raise ValueError("seven of nine")
        elif kind == "data":
            raise DataError("a file of this node is gone")
        elif kind == "loop":
            while True:
                pass
"""

LINE = (
    "train.max_examples=100",
    "train.batch_size=32",
    "train.duration=40step",
    "checkpoint.every=6step",
    "eval.every=20step",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "augment.crop.padding=1",
    "reg=[]",
    "average=[ema]",
)
TWO = ("parallel=ddp", "launch.nproc=2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dnntrain")
DIRECT = (sys.executable, "-m", "dnntrain")


def network(folder: Path) -> str:
    """The override that trains NETWORK."""
    file = folder / "net.py"
    file.write_text(NETWORK)
    return f"model.file={file}"


def start(
    words: tuple[str, ...], folder: Path, door: tuple[str, ...] = DIRECT, **environ: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*door, *words],
        cwd=folder,
        env={**environment(), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    words: tuple[str, ...], folder: Path, door: tuple[str, ...] = DIRECT, timeout_s: float = 240, **environ: str
) -> subprocess.CompletedProcess[str]:
    with start(words, folder, door, **environ) as process:
        output, errors = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def await_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Returns once the run has saved."""
    while process.poll() is None and not (run / "checkpoints" / "LAST").exists():
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def processes_of(run: Path) -> list[int]:
    """The processes whose command line names the run directory, this one apart."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes()
        except OSError:
            continue
        if str(run).encode() in words and int(file.parent.name) != os.getpid():
            found.append(int(file.parent.name))
    return found


def command(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def role(pid: int) -> str:
    """`agent` or `rank`, by the command line and name of a process; a forked rank has the command line of its agent."""
    line = command(pid)
    try:
        is_forked_rank = Path(f"/proc/{pid}/comm").read_bytes().startswith(b"dnn rank ")
    except OSError:
        return ""
    if b"rank_agent" in line:
        return "rank" if is_forked_rank else "agent"
    return "rank" if b"dnntrain.run.worker" in line else ""


def assert_nobody_left(run: Path, within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while processes_of(run):
        assert time.monotonic() < end, processes_of(run)
        time.sleep(0.05)
