"""`dnntrain eval RUN|EXPORT [split=…] [overrides]`: metrics of a model on a data set."""

from __future__ import annotations

import json
from pathlib import Path

from dnntrain.cli.options import get_flag, split_command_options
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean

SPLITS = ("train", "val", "test")


def run(arguments: Arguments) -> int:
    """Prints one line, or one JSON object, for each run."""
    from dnntrain.inference.load import evaluate_run

    if not arguments.positional:
        raise ConfigError("eval needs a run directory or an export", "as in: dnntrain eval runs/NAME/ID split=test")
    options, overrides = split_command_options(arguments.overrides, ("split", "trust"))
    split, trust = check_split(options.get("split", "test")), get_flag(options, "trust")
    for path in arguments.positional:
        values = evaluate_run(Path(path), overrides, split, trust)
        if arguments.json:
            print(json.dumps({"run": path, "split": split, **values}))
        else:
            print(
                f"{path} {split}: accuracy {values['accuracy']:.4f}, loss {values['loss']:.4f}, {values['examples']} examples"
            )
    return 0


def check_split(name: str) -> str:
    """`name` where it is a split. Raises ConfigError with the nearest where it is none."""
    if name not in SPLITS:
        raise ConfigError(f"split={name} is none of {', '.join(SPLITS)}", did_you_mean(name, SPLITS))
    return name
