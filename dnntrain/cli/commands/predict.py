"""`dnntrain predict RUN PATH…`: print classes and probabilities for images or folders of them."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_model
from dnntrain.input.data_files import check_image_paths


def run(arguments: Arguments) -> int:
    """Print CSV (path, class, probability), or one JSON object per line.

    Unreadable files are listed on stderr at the end. Raises DataError if no file can be read.
    """
    options = arguments.options
    if arguments.json and "format" in arguments.given and options["format"] != "jsonl":
        raise ConfigError(f"--json contradicts --format {options['format']}", "use --json or --format jsonl")
    run_path, *images = (Path(item).expanduser() for item in arguments.positional)
    check_model(run_path, arguments.overrides)
    check_image_paths(images)
    from dnntrain.inference.write_predictions import write_predictions
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(run_path, arguments.overrides, options["trust"])
    write_predictions(
        run_path,
        images,
        sys.stdout,
        "jsonl" if arguments.json else options["format"],
        options["top"],
        quiet=arguments.quiet,
        overrides=arguments.overrides,
        trust=options["trust"],
        workers=options["workers"],
        batch_size=options["batch_size"],
        masks=None if options["masks"] is None else Path(options["masks"]).expanduser(),
    )
    return 0
