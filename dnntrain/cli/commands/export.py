"""`dnntrain export RUN`: write a trained model in a portable format, compared with its source."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.export.manifest import check_target
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Write the export and print its path.

    The path is --path, by default exports/FORMAT in the run directory.
    """
    options = arguments.options
    run_path = Path(arguments.positional[0]).expanduser()
    target = options["path"] or run_path / "exports" / options["format"]
    check_model(run_path)
    check_target(target)
    from dnntrain.export.options import ExportOptions
    from dnntrain.inference.export_run import summarize_export
    from dnntrain.run.export_trained import export_trained

    manifest = export_trained(
        run_path,
        arguments.overrides,
        target,
        format_name=options["format"],
        runtime=options["runtime"],
        batches=options["batches"] and sorted(set(options["batches"])),
        threads=options["threads"],
        options=ExportOptions(options["opset"], options["half"], options["batch"]),
        trust=options["trust"],
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    print(format_json(summarize_export(manifest, target)) if arguments.json else target)
    return 0
