"""Write predictions as CSV or JSON lines, with progress and the list of unreadable files on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from dnntrain.errors import DataError
from dnntrain.inference.predict import predict_files
from dnntrain.utils.csv_text import format_csv_line
from dnntrain.utils.json_files import format_json
from dnntrain.utils.streams import SafeStream
from dnntrain.utils.terminal_text import clean_line

#: Seconds between two progress notes.
_PROGRESS_INTERVAL_S = 1.0

#: The keys of the lists of candidates in a prediction, and their columns in CSV.
_CANDIDATES = {"top": "class", "next": "next"}


def write_predictions(
    run: Path,
    images: Sequence[Path],
    stream: TextIO,
    output_format: str,
    top: int | None,
    *,
    quiet: bool,
    **options: Any,
) -> None:
    """Write a row for each prediction to `stream`, and list unreadable files on stderr.

    `top`: number of classes for each example; None: 1 in CSV, 5 in JSON. `options` are the arguments
    of `predict_files`. Raises DataError if no file could be read.
    """
    unreadable: list[DataError] = []
    progress = _ProgressPrinter(quiet)
    num_classes = top or (1 if output_format == "csv" else 5)
    clean = clean_line if stream.isatty() else str  # a name with a line feed would look like two rows
    rows = 0
    for row in predict_files(
        run, images, num_classes, lambda file, error: unreadable.append(error), progress=progress, **options
    ):
        if output_format == "jsonl":
            print(format_json(row), file=stream)
        else:
            cells = _list_cells(row)
            if not rows:
                stream.write(format_csv_line(list(cells)))
            stream.write(format_csv_line([clean(cell) if isinstance(cell, str) else cell for cell in cells.values()]))
        rows += 1
    progress.end_line()
    if unreadable:
        print(f"{len(unreadable)} of {rows + len(unreadable)} files could not be read:", file=sys.stderr)
        for error in unreadable:
            print(f"  {clean_line(error.message)}", file=sys.stderr)
    if not rows:
        raise DataError(f"none of {len(unreadable)} files could be read; the first: {unreadable[0].message}")


def _list_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction as cells by column: the candidates of a class are class, probability, class_2 …

    Those of a next token are next, probability, next_2 …
    """
    key = next((name for name in _CANDIDATES if isinstance(row.get(name), list)), None)
    if key is None:
        return dict(row)
    cells = {name: row[name] for name in ("path", "row") if name in row}
    for number, (name, share) in enumerate(row[key], 1):
        suffix = "" if number == 1 else f"_{number}"
        cells |= {f"{_CANDIDATES[key]}{suffix}": name, f"probability{suffix}": share}
    return cells


class _ProgressPrinter:
    """Show progress on stderr: on a terminal each second in one line, else every ten seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stream = None if sys.stderr is None else SafeStream(sys.stderr)
        self._terminal = self._stream is not None and self._stream.isatty()
        self._start = self._last = time.monotonic()
        self._has_printed = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if (
            self._stream is None
            or self._quiet
            or now - self._last < _PROGRESS_INTERVAL_S * (1 if self._terminal else 10)
        ):
            return
        self._last, self._has_printed = now, True
        text = f"{done} of {total} files, {done / (now - self._start):.0f}/s"
        self._stream.write(f"\r{text}" if self._terminal else f"{text}\n")
        self._stream.flush()

    def end_line(self) -> None:
        if self._has_printed and self._terminal:
            print(file=sys.stderr)
