"""`dnntrain eval RUN|EXPORT [split=…] [overrides]`: metrics of a model on a data set."""

from __future__ import annotations

import json
from pathlib import Path

from dnntrain.cli.options import flag, own_words
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean

SPLITS = ("train", "val", "test")


def run(arguments: Arguments) -> int:
    """Prints one line, or one JSON object, for each run."""
    from dnntrain.inference.load import evaluate_run

    if not arguments.positional:
        raise ConfigError("eval needs a run directory or an export", "as in: dnntrain eval runs/NAME/ID split=test")
    own, overrides = own_words(arguments.overrides, ("split", "trust"))
    split, trust = checked_split(own.get("split", "test")), flag(own, "trust")
    for path in arguments.positional:
        values = evaluate_run(Path(path), overrides, split, trust)
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
