"""`dnntrain pipeline NAME`: make a chain of stages, each from the model of an earlier one."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.pipeline.definition import read_definition
from dnntrain.pipeline.prepare import prepare_pipeline
from dnntrain.utils.suggest import format_path


def run(arguments: Arguments) -> int:
    """Make the stages that are not done, and print the path of the report; or print plan or status."""
    definition = read_definition(arguments.positional[0], arguments.overrides, arguments.config_dir)
    pipeline = prepare_pipeline(definition, arguments.config_dir)
    if arguments.options["plan"] or arguments.options["status"]:
        from dnntrain.pipeline.listing import format_plan, format_status

        show = format_plan if arguments.options["plan"] else format_status
        print(show(pipeline, arguments.json))
        return 0
    from dnntrain.pipeline.run_pipeline import run_pipeline

    result = run_pipeline(pipeline, arguments.display)
    print(result.as_json() if arguments.json else format_path(result.report))
    return 0
