"""Write TensorBoard event files (`tensorboard --logdir runs`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.choices.track._base import flatten_config, iterate_scalars, make_missing_package_error
from dnntrain.config.fields import Annotated, PositiveInt, Text
from dnntrain.protocols import TrackChoice, Tracker
from dnntrain.utils.files import make_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True)
class TensorBoard(TrackChoice):
    """Write scalars by optimizer step, and the configuration as text.

    Tags are `train/loss`, `val/accuracy`, `perf/examples_per_s` …
    """

    folder: Annotated[str, Text(r"\w[\w.-]*", "a plain folder name")] = "tensorboard"  # folder inside the run directory
    flush_s: PositiveInt = 30  # seconds between two writes to the file

    def build(self) -> Tracker:
        """Return the tracker. Raises ConfigError if the package is not installed."""
        if find_spec("tensorboard") is None:
            raise make_missing_package_error("tensorboard", "tensorboard")
        return TensorBoardTracker(self.folder, self.flush_s)


class TensorBoardTracker:
    """Write one event file for each session of a run."""

    def __init__(self, folder: str, flush_s: int) -> None:
        self._folder = folder
        self._flush_s = flush_s
        self._path = Path()
        self._config: Mapping[str, Any] = {}
        self._writer: SummaryWriter | None = None

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        self._path, self._config = Path(run_dir) / self._folder, config

    def log_row(self, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        writer = self._open_writer(step)
        for tag, value in iterate_scalars(row):
            writer.add_scalar(tag, value, global_step=step)
        if row.get("split") == "event":
            writer.add_text("events", f"{row.get('event')}: {row.get('reason', '')}", global_step=step)

    def close(self, result: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open_writer(self, step: int) -> SummaryWriter:
        """Open the file with the first row, which begins at `step`.

        TensorBoard then hides rows that an earlier session wrote from that step on.
        """
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            make_folder(self._path)
            self._writer = SummaryWriter(str(self._path), flush_secs=self._flush_s, purge_step=step)
            lines = "".join(f"    {key}: {value}\n" for key, value in flatten_config(self._config))
            self._writer.add_text("config", lines, global_step=step)
        return self._writer
