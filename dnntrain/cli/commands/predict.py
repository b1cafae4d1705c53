"""`dnntrain predict RUN|EXPORT PATH…`: classes and probabilities for images or folders of them."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

from dnntrain.cli.options import get_flag, get_int, split_command_options
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError, DataError
from dnntrain.utils.suggest import did_you_mean

_OPTIONS = ("format", "top", "workers", "batch_size", "trust")

#: Seconds between two notes on progress.
_PROGRESS_INTERVAL_S = 1.0


def run(arguments: Arguments) -> int:
    """Prints CSV (path, class, probability), or one JSON object a line.

    Unreadable files are listed on stderr at the end; exit code 3 if all are.
    """
    from dnntrain.inference.predict import BATCH_SIZE, predict_files

    if len(arguments.positional) < 2:
        raise ConfigError(
            "predict needs a run directory or export, and images",
            "as in: dnntrain predict runs/NAME/ID photo.png folder",
        )
    options, overrides = split_command_options(arguments.overrides, _OPTIONS)
    for word in overrides:
        if not word.startswith("device="):
            raise ConfigError(
                f"predict takes no setting {word}; a model predicts with those it was trained with",
                f"its own: {', '.join(f'{name}=' for name in _OPTIONS)}, device=",
            )
    output_format = options.get("format", "jsonl" if arguments.json else "csv")
    if output_format not in ("csv", "jsonl"):
        raise ConfigError(
            f"format={output_format} is neither csv nor jsonl", did_you_mean(output_format, ["csv", "jsonl"])
        )
    path, *images = (Path(item) for item in arguments.positional)
    unreadable: list[DataError] = []
    progress_printer = _ProgressPrinter(quiet=arguments.quiet)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = 0
    for row in predict_files(
        path,
        images,
        get_int(options, "top", 5) or 5,
        lambda file, error: unreadable.append(error),
        overrides=overrides,
        trust=get_flag(options, "trust"),
        workers=get_int(options, "workers", None, at_least=0),
        batch_size=get_int(options, "batch_size", BATCH_SIZE) or BATCH_SIZE,
        progress=progress_printer,
    ):
        if output_format == "jsonl":
            print(json.dumps(row))
        else:
            if not rows:
                writer.writerow(["path", "class", "probability"])
            writer.writerow([row["path"], row["class"], row["probability"]])
        rows += 1
    progress_printer.end_line()
    if unreadable:
        print(f"{len(unreadable)} of {rows + len(unreadable)} files could not be read:", file=sys.stderr)
        for error in unreadable:
            print(f"  {error.message}", file=sys.stderr)
    if not rows:
        raise DataError(f"none of {len(unreadable)} files could be read; the first: {unreadable[0].message}")
    return 0


class _ProgressPrinter:
    """How far it is, on stderr: about once a second on a terminal in one line, else every ten seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._has_printed = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._last < _PROGRESS_INTERVAL_S * (1 if self._terminal else 10):
            return
        self._last, self._has_printed = now, True
        text = f"{done} of {total} files, {done / (now - self._start):.0f}/s"
        print(f"\r{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def end_line(self) -> None:
        if self._has_printed and self._terminal:
            print(file=sys.stderr)
