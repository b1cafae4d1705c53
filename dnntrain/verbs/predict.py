"""`dnntrain predict RUN PATH…`: classes and probabilities for images or folders of them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from dnntrain.errors import ConfigError, DataError
from dnntrain.verbs.arguments import Arguments


def run(arguments: Arguments) -> int:
    """Prints CSV (path, class, probability), or one JSON object a line. Unreadable files are listed on stderr; exit code 3 if all are."""
    from dnntrain.verbs.trained import predict_files

    if len(arguments.positional) < 2:
        raise ConfigError(
            "predict needs a run directory and images", "as in: dnntrain predict runs/NAME/ID photo.png folder"
        )
    if arguments.overrides:
        raise ConfigError(
            f"predict takes no overrides: {arguments.overrides[0]}",
            "a model predicts with the settings it was trained with",
        )
    run_path, *images = (Path(item) for item in arguments.positional)
    unreadable: list[Path] = []

    def left_out(file: Path, error: DataError) -> None:
        unreadable.append(file)
        print(f"left out: {error.message}", file=sys.stderr)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = 0
    for row in predict_files(run_path, images, 5, left_out):
        if arguments.json:
            print(json.dumps(row))
        else:
            if not rows:
                writer.writerow(["path", "class", "probability"])
            writer.writerow([row["path"], row["class"], row["probability"]])
        rows += 1
    if unreadable and not rows:
        raise DataError(f"none of {len(unreadable)} files could be read; the first: {unreadable[0]}")
    return 0
