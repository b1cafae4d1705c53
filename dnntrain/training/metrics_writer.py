"""Write metrics.jsonl: one flat object per line, each step exactly once, also after a resume."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import DivergedError
from dnntrain.protocols import Adjustment, MetricCallback, StepLoss
from dnntrain.training.progress import Progress
from dnntrain.utils.files import name_file, open_file, read_bytes, sync_to_disk, write_text
from dnntrain.utils.json_files import parse_json, to_strict_json

Listener = Callable[[Mapping[str, Any]], None]
Reduce = Callable[[Tensor], Tensor]


class Metrics:
    """Collect each step's loss on the device, read it once per row, and write rows.

    The metric callbacks see each row. `read_scheduled` returns scheduled values besides the learning
    rate. `reduce` sums a tensor over all ranks. Only the main rank has a `path` to write to.
    """

    def __init__(
        self,
        path: Path | None,
        progress: Progress,
        *,
        learning_rate: Callable[[], float],
        read_scheduled: Callable[[], Mapping[str, float]] = dict,
        reduce: Reduce,
        listeners: Sequence[Listener] = (),
        decisions: Sequence[MetricCallback] = (),
    ) -> None:
        self._path = path
        self._progress = progress
        self._learning_rate = learning_rate
        self._read_scheduled = read_scheduled
        self._reduce = reduce
        self._listeners = listeners
        self._decisions = decisions
        self._file = open_file(path, "ab") if path is not None else None
        self._file_digest = hashlib.sha256()
        self._totals: list[Tensor] = []
        self._counts: list[int] = []
        self._weights: list[int | Tensor] = []
        self._step_values: dict[str, Tensor] = {}
        self._sum, self._weight = 0.0, 0
        self._examples = 0
        self._row_examples, self._row_train_s = 0, 0.0
        self.restored_bytes = 0

    def record(self, loss: StepLoss) -> None:
        """Record the loss of one step without waiting for the device."""
        self._totals.append(loss.total)
        self._counts.append(loss.examples)
        self._weights.append(loss.weight)

    def observe(self, numbers: Mapping[str, Tensor]) -> None:
        """Record further numbers of the step; a row shows the last ones."""
        self._step_values.update(numbers)

    def write_train_row(self, step: int) -> None:
        """Write the row of the interval that ends with `step`: mean loss, scheduled values, speed."""
        self._drain_losses()
        if not self._weight:
            return
        train_s = self._progress.train_s
        duration_s = max(train_s - self._row_train_s, 1e-9)
        row = {
            "loss": self._sum / self._weight,
            "lr": self._learning_rate(),
            **self._read_scheduled(),
            **self._get_batch_size(step),
            **{name: float(value) for name, value in self._step_values.items()},
            "examples_per_s": round((self._examples - self._row_examples) / duration_s, 1),
        }
        self._sum, self._weight = 0.0, 0
        self._row_examples, self._row_train_s = self._examples, train_s
        self.write_row("train", step, row)

    def _get_batch_size(self, step: int) -> dict[str, int]:
        """Return the batch size of the interval's last step if it is scheduled."""
        timetable = self._progress.timetable
        return (
            {} if timetable.is_constant else {"batch_size": timetable.batch_size_at(timetable.locate_step(step - 1)[0])}
        )

    def write_row(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row, and pass it to the listeners and the metric callbacks."""
        row = self._append_row(split, step, values)
        for listener in self._listeners:
            listener(row)
        for decision in self._decisions:
            verdict = decision(row)
            if isinstance(verdict, Adjustment):
                self.write_row("event", step, {"event": verdict.event, "reason": verdict.reason, **verdict.values})
            elif verdict is not None and self._progress.stop_reason is None:
                self._progress.stop_reason = verdict.reason
                self.write_row("event", step, {"event": "stop", "reason": verdict.reason})

    def rewrite_row(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a row that the listeners have seen already, or that is for the file alone."""
        self._append_row(split, step, values)

    def _append_row(self, split: str, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Append the row to the file and return it complete."""
        row = {
            "step": step,
            "epoch": round(self._progress.timetable.epoch_at(step), 4),
            "examples": self.examples,
            "wall_s": round(self._progress.elapsed_s, 3),
            "split": split,
            **values,
        }
        if self._file is not None:
            line = (json.dumps(to_strict_json(row), allow_nan=False) + "\n").encode()
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:
                name_file(error, Path(self._file.name))
                raise
            self._file_digest.update(line)
        return row

    @property
    def examples(self) -> int:
        """Training examples seen, over all ranks and sessions."""
        return self._examples + sum(self._counts)

    def start_interval(self) -> None:
        """Start to measure the speed, with the first step of this session."""
        self._row_examples, self._row_train_s = self._examples, self._progress.train_s

    def _drain_losses(self) -> None:
        """Read the recorded losses in one transfer, and add them in the order of the steps."""
        if not self._totals:
            return
        totals = self._reduce(torch.stack(self._totals)).tolist()
        for offset, total in enumerate(totals):
            if not math.isfinite(total):
                step = self._progress.step - len(totals) + offset + 1
                raise DivergedError(
                    f"the loss of step {step} is {total}: training has diverged",
                    "lower optim.lr, add a warm-up (sched.warmup=5%) or +reg=[grad_clip]",
                )
            self._sum += total
        self._weight += sum(map(int, self._weights))
        self._examples += sum(self._counts)
        self._totals.clear()
        self._counts.clear()
        self._weights.clear()

    def state_dict(self) -> dict[str, Any]:
        self._drain_losses()
        offset = 0
        if self._file is not None and self._path is not None:
            sync_to_disk(self._path)
            offset = self._file.tell()
        rows = {"bytes": offset, "sha256": self._file_digest.hexdigest()}
        return {"sum": self._sum, "weight": self._weight, "examples": self._examples, **rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sum, self._weight, self._examples = float(state["sum"]), int(state["weight"]), int(state["examples"])
        for pending in (self._totals, self._counts, self._weights, self._step_values):
            pending.clear()
        self.restored_bytes = int(state["bytes"])
        self.truncate_to(self.restored_bytes)

    def truncate_to(self, size_bytes: int) -> None:
        """Remove the rows after the first `size_bytes`: they are newer than the resumed checkpoint."""
        if self._file is not None:
            # A checkpoint of another run may name more rows than there are here: truncate would add
            # zeros.
            os.ftruncate(self._file.fileno(), min(size_bytes, os.fstat(self._file.fileno()).st_size))
            self._file.seek(0, os.SEEK_END)
            self._file_digest = hashlib.sha256(read_bytes(self._path) if size_bytes and self._path is not None else b"")

    def close(self) -> None:
        """Close metrics.jsonl and write it as results.csv; a second call does nothing."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._file = None
            write_csv(self._path, self._path.with_name("results.csv"))


def read_rows(path: Path, size_bytes: int | None = None) -> list[dict[str, Any]]:
    """Return the complete rows in the first `size_bytes` of a metrics.jsonl, or in all of it.

    Other lines are skipped. A file that is missing or cannot be read has no rows.
    """
    rows = []
    with suppress(OSError), open_file(path) as file:
        for line in file.read(-1 if size_bytes is None else size_bytes).splitlines():
            with suppress(ValueError):
                row = parse_json(line)
                rows += [row] if isinstance(row, dict) else []
    return rows


def write_csv(source: Path, target: Path) -> None:
    """Write metrics.jsonl as a table with one column per name, for spreadsheets."""
    from dnntrain.utils.csv_text import format_csv

    rows = read_rows(source)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_text(target, format_csv([columns, *([row.get(name) for name in columns] for row in rows)]))


class Timer:
    """Wrap a call that is not training, so that its time is not counted as training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._depth = 0
        self._started_s = 0.0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._started_s = time.perf_counter()
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._progress.exclude_time(time.perf_counter() - self._started_s)
