"""`dnntrain eval RUN [split=…] [overrides]`: metrics of a run's model on a data set."""

from __future__ import annotations

import json
from pathlib import Path

from dnntrain.errors import ConfigError, did_you_mean
from dnntrain.verbs.arguments import Arguments

SPLITS = ("train", "val", "test")


def run(arguments: Arguments) -> int:
    """Prints one line, or one JSON object, for each run."""
    from dnntrain.verbs.trained import evaluate_run

    if not arguments.positional:
        raise ConfigError("eval needs a run directory", "as in: dnntrain eval runs/NAME/ID split=test")
    splits = [item.removeprefix("split=") for item in arguments.overrides if item.startswith("split=")]
    overrides = [item for item in arguments.overrides if not item.startswith("split=")]
    split = checked_split(splits[-1] if splits else "test")
    for path in arguments.positional:
        values = evaluate_run(Path(path), overrides, split)
        if arguments.json:
            print(json.dumps({"run": path, "split": split, **values}))
        else:
            print(
                f"{path} {split}: accuracy {values['accuracy']:.4f}, loss {values['loss']:.4f}, {values['examples']} examples"
            )
    return 0


def checked_split(name: str) -> str:
    """`name` where it is a split. Raises ConfigError with the nearest where it is none."""
    if name not in SPLITS:
        raise ConfigError(f"split={name} is none of {', '.join(SPLITS)}", did_you_mean(name, SPLITS))
    return name
