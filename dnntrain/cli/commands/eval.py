"""`dnntrain eval RUN…`: measure a model on a data set."""

from __future__ import annotations

from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print one line, or one JSON object, for each run."""
    for path in arguments.positional:
        check_model(Path(path), arguments.overrides)
    from dnntrain.inference.class_names import parse_renames
    from dnntrain.inference.evaluate_run import evaluate_run
    from dnntrain.run.unfinished import write_unfinished_model

    options = arguments.options
    renames = parse_renames(options["map"] or "")
    for path in arguments.positional:
        write_unfinished_model(Path(path), arguments.overrides, options["trust"])
        split, values = evaluate_run(Path(path), arguments.overrides, options["split"], options["trust"], renames)
        if arguments.json:
            print(format_json({"run": path, "split": split, **values}))
        else:
            names = sorted(values.keys() - {"examples"}, key=lambda name: (name == "loss", name))
            texts = [f"{name} {values[name]:.4f}" for name in names]
            print(f"{path} {split}: {', '.join(texts)}, {values['examples']} examples")
    return 0
