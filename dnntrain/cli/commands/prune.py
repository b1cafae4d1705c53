"""`dnntrain prune RUN --sensitivity`: measure which channels of a trained network matter."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print a table, or JSON."""
    path, options = Path(arguments.positional[0]).expanduser(), arguments.options
    if not options["sensitivity"]:
        raise ConfigError(
            "prune needs --sensitivity: without it there is nothing to measure",
            f"use dnntrain prune {path} --sensitivity; to remove channels, train: init_from={path} prune=structured",
        )
    check_model(path, arguments.overrides)
    from dnntrain.inference.sensitivity import format_sensitivity, measure_sensitivity
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(path, arguments.overrides, options["trust"])
    measurement = measure_sensitivity(
        path,
        arguments.overrides,
        options["criterion"],
        options["trust"],
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    if arguments.json:
        print(format_json(measurement.as_json()))
    else:
        print(*format_sensitivity(measurement), sep="\n")
    return 0
