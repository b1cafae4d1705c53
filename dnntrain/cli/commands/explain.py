"""`dnntrain explain RUN`: show how a model comes to its answers, with maps that are checked."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.explain.option_values import check_numbers_path, split_example_words
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json
from dnntrain.utils.suggest import format_path
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Write explain.html and explain.json beside the model, and print the path of the page, or the JSON.

    Under torchrun the ranks share the maps, and the main one writes and prints.
    """
    world = World.from_environ()
    options, path = arguments.options, Path(arguments.positional[0]).expanduser()
    names, files = split_example_words(options["examples"] or ())
    check_model(path, arguments.overrides)
    if options["against"] is not None:
        check_model(options["against"])
    from dnntrain.explain.explain_model import explain_model
    from dnntrain.explain.map_share import join_map_share
    from dnntrain.explain.page import write_page
    from dnntrain.explain.work import ExplainOptions
    from dnntrain.report import check_page_path
    from dnntrain.run.unfinished import write_unfinished_model
    from dnntrain.utils.sealed_json import write_sealed_json

    page = check_numbers_path(check_page_path(options["path"]))
    page = page or (path if path.is_dir() else path.parent) / "explain.html"
    with join_map_share(world) as share:
        share.run_on_main("model", lambda: write_unfinished_model(path, arguments.overrides, options["trust"]))
        if (other := options["against"]) is not None:
            share.run_on_main("other model", lambda: write_unfinished_model(other, (), options["trust"]))
        explanation = explain_model(
            path,
            arguments.overrides,
            ExplainOptions(
                sets=tuple(names),
                files=tuple(files),
                **{name: options[name] for name in ("count", "method", "layer", "split", "against", "directions")},
            ),
            options["trust"],
            say=lambda text: None if arguments.quiet or not world.is_main else print(text, file=sys.stderr),
            share=share,
        )
        if not world.is_main:
            return 0
    values = explanation.as_json()
    write_sealed_json(page.with_suffix(".json"), values)
    write_page(page, explanation)
    print(format_json({**values, "page": str(page)}) if arguments.json else format_path(page))
    return 0
