"""Short real runs, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

#: The shortest real run: 3 epochs of the default network on a part of the digits.
SHORT = (
    "train.duration=3ep",
    "train.max_examples=320",
    "log.every=4step",
    "log.report=false",
    "augment.crop.padding=0",
    "optim.lr=4e-3",
)

#: Eight steps with a row after each, and a validation and a checkpoint after every second one.
EIGHT_STEPS = (
    "model=mlp",
    "reg=[]",
    "train.max_examples=64",
    "train.duration=8step",
    "log.every=1step",
    "log.report=false",
    "eval.every=2step",
    "checkpoint.every=2step",
    "checkpoint.keep_last=9",
    "eval.max_examples=40",
    "precision=fp32",
)


def environment() -> dict[str, str]:
    """The environment of a child process: this one's, with the project importable and without colours."""
    root = str(Path(__file__).resolve().parents[2])
    names = ("FORCE_COLOR", "DNNTRAIN_DEBUG", "RANK", "WORLD_SIZE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def comparable(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run less what the clock decides."""
    timed = {"wall_s", "examples_per_s"}
    return [{name: value for name, value in row.items() if name not in timed} for row in rows(run_dir)]


def result(run_dir: Path) -> dict[str, Any]:
    """A run's result.json."""
    loaded: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return loaded


def trained(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """Trains in this process, through the Python interface."""
    from dnntrain import train

    given = {word.lstrip("+").split("=")[0] for word in overrides}
    kept = [word for word in SHORT if word.split("=")[0] not in given]
    return train(*kept, *overrides, f"run_dir={run_dir}", display="quiet")


def broken_off(whole: Path, again: Path, step: int) -> None:
    """Makes `again` what the run `whole` was after its checkpoint of step `step`; its rows are cut when it is gone on with."""
    shutil.copytree(whole, again)
    for name in ("result.json", "checkpoints/BEST"):
        (again / name).unlink(missing_ok=True)
    for path in (again / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    (again / "checkpoints" / "LAST").write_text(f"step-{step}\n")
