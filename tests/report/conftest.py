"""Run directories as training writes them, made up in milliseconds."""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("folder", …)`: a run directory in the test's own folder, made by `write_run`."""

    def make(folder: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / "runs" / folder, **options)

    return make


def write_run(
    path: Path,
    *,
    name: str = "small_cnn-digits",
    status: str = "done",
    steps: int = 120,
    log_every: int = 2,
    steps_per_epoch: int = 12,
    seed: int = 0,
    lr: float = 1e-3,
    speed: float = 40_000.0,
    class_names: tuple[str, ...] = tuple("0123456789"),
    wrong: int = 16,
    nan_from: int | None = None,
    events: tuple[tuple[int, str, str], ...] = (),
) -> Path:
    """Writes every file of a run that trained `steps` steps; one whose status is not "done" has no test figures.

    `nan_from` is the step from which the losses are not finite.
    """
    rng = random.Random(seed)
    path.mkdir(parents=True)
    rows, best, best_step = [], 0.0, 0
    for step in range(log_every, steps + 1, log_every):
        wall_s = round(step * 128 / speed + step / steps_per_epoch * 0.2, 3)
        base = {"step": step, "epoch": step / steps_per_epoch, "examples": step * 128, "wall_s": wall_s}
        loss = 2.3 * math.exp(-step / (steps * 0.16)) + 0.02 + rng.random() * 0.03
        finite = nan_from is None or step < nan_from
        speed_now = round(speed * (0.95 + 0.1 * rng.random()), 1)
        cosine = lr * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, step / (0.05 * steps))
        values = {
            "loss": loss if finite else "nan",
            "lr": cosine,
            "grad_norm": 3 * loss + rng.random() if finite else "inf",
        }
        rows.append({**base, "split": "train", **values, "examples_per_s": speed_now})
        if step % steps_per_epoch == 0:
            accuracy = 0.985 - 0.88 * math.exp(-step / (steps * 0.14)) - 0.006 * rng.random()
            if accuracy > best and finite:
                best, best_step = accuracy, step
            val_loss = loss * 1.1 + 0.03 if finite else "nan"
            rows.append(
                {**base, "split": "val", "loss": val_loss, "accuracy": accuracy if finite else 0.1, "examples": 360}
            )
    for step, event, reason in events:
        rows.append({"step": step, "split": "event", "event": event, "reason": reason})
    if status == "done" and nan_from is None:
        rows.append(
            {"step": steps, "epoch": steps / steps_per_epoch, "split": "test", "loss": 0.0612, "accuracy": 0.9833}
        )
        _write_evaluation(path, class_names, wrong, rng)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_json(path / "plan.json", _plan(name, steps, steps_per_epoch))
    _write_json(path / "env.json", _environment())
    (path / "config.yaml").write_text(_config(name, lr, seed))
    (path / "overrides.txt").write_text(f"optim.lr={lr}\nseed={seed}\n'name={name}'\n")
    result = {
        "status": status,
        "metric": "accuracy",
        "best": best or None,
        "best_step": best_step,
        "reason": None,
        "steps": steps,
        "epochs": steps / steps_per_epoch,
        "examples_per_s": speed,
        "step_ms": 128_000 / speed,
        "train_s": steps * 128 / speed,
        "peak_memory_mb": 512.4,
        "estimated_memory_mb": 498.0,
        "digest": "6f1d" * 16,
        "parameters": 421_642,
    }
    if status != "unfinished":
        _write_json(path / "result.json", result)
    return path


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def _write_evaluation(path: Path, class_names: tuple[str, ...], wrong: int, rng: random.Random) -> None:
    classes = len(class_names)
    confusion = [[0] * classes for _ in range(classes)]
    for true in range(classes):
        confusion[true][true] = 34 + rng.randrange(4)
        for _ in range(rng.choice((0, 0, 1, 1, 3, 6))):
            confusion[true][rng.randrange(classes)] += 1
    samples = []
    for number in range(wrong):
        label = rng.randrange(classes)
        samples.append(
            {
                "name": f"digits test {number * 7}",
                "label": label,
                "predicted": (label + 1 + rng.randrange(classes - 1)) % classes,
                "probability": round(0.999 - number * 0.03, 4),
                "image": _picture(label, number),
            }
        )
    total = sum(map(sum, confusion))
    right = sum(confusion[true][true] for true in range(classes))
    evaluation = {"split": "test", "examples": total, "loss": 0.0612, "accuracy": right / total}
    _write_json(
        path / "evaluation.json", {**evaluation, "class_names": class_names, "confusion": confusion, "wrong": samples}
    )


def _picture(label: int, number: int) -> str:
    """A handwritten digit of the data set that comes with dnntrain, as base64 PNG."""
    with np.load(Path(__file__).parents[2] / "dnntrain" / "choices" / "data" / "digits.npz") as file:
        images, labels = (file[key] for key in file.files[:2])
    chosen = images[np.flatnonzero(labels == label % 10)[number % 50]].squeeze().astype(np.float64)
    buffer = BytesIO()
    Image.fromarray((chosen * 255 / chosen.max()).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _plan(name: str, steps: int, steps_per_epoch: int) -> dict[str, Any]:
    return {
        "name": name,
        "layout": "single",
        "ranks": 1,
        "device": "cpu",
        "data": {
            "name": "digits",
            "train": 1293,
            "val": 144,
            "test": 360,
            "input_shape": [1, 8, 8],
            "output_shape": [10],
        },
        "model": {"name": "small_cnn", "parameters": 421_642, "flops_per_example": 2_400_000.0},
        "batch_size": 128,
        "steps_per_epoch": steps_per_epoch,
        "total_steps": steps,
        "precision": {"name": "bf16", "reason": "the processor multiplies bfloat16 matrices (amx_bf16)"},
        "metrics": [
            {"name": "accuracy", "higher_is_better": True, "unit": "%"},
            {"name": "loss", "higher_is_better": False, "unit": ""},
        ],
        "memory_bytes": 498 * 2**20,
        "notes": ["the last batch of an epoch has 13 examples; its loss is their mean"],
    }


def _environment() -> dict[str, Any]:
    return {
        "argv": ["train", "optim.lr=0.001"],
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.14.1", "numpy": "2.3.5", "hydra-core": "1.3.8"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "cpu": {"model": "a processor", "cores": 2, "features": ["avx2", "avx512_bf16", "amx_bf16"]},
        "variables": {},
    }


def _config(name: str, lr: float, seed: int) -> str:
    return f"""name: {name}
seed: {seed}
run_dir: null
data:
  name: digits
  val_fraction: 0.1
optim:
  name: adamw
  lr: {lr}
  betas: [0.9, 0.999]
train:
  duration: 10ep
  batch_size: 128
  channels_last: auto
reg: {{}}
"""
