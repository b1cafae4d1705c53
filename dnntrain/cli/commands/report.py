"""`dnntrain report RUN…`: write the report of a run or a pipeline, or compare runs or the trials of a sweep."""

from __future__ import annotations

from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.pipeline.answer import answer_pipeline
from dnntrain.pipeline.listing import is_pipeline_folder
from dnntrain.prove.noise import render_noise
from dnntrain.report.best_runs import select_best_runs
from dnntrain.sweep.run_directories import find_run_directories
from dnntrain.utils.json_files import format_json
from dnntrain.utils.suggest import format_path

#: The page of all trials of a sweep, in its folder.
SWEEP_PAGE = "comparison.html"


def run(arguments: Arguments) -> int:
    """Write the page and print its path.

    One run gives report.html and curves.png, a sweep comparison.html in its folder, other runs
    comparison-NAMES.html. With --path only that page is written.
    """
    from dnntrain.report import check_page_path, write_curves, write_report

    output = check_page_path(arguments.options["path"])
    words = arguments.positional
    folder = Path(words[0]).expanduser().absolute()
    if len(words) == 1 and is_pipeline_folder(folder):
        latency, batch = arguments.options["max_latency"], arguments.options["batch"]
        print(answer_pipeline(folder, output, latency, batch, arguments.json))
        return 0
    if given := sorted(arguments.given & {"max_latency", "batch"}):
        option = f"--{given[0].replace('_', '-')}"
        raise ConfigError(
            f"{option} applies to the folder of a pipeline", "as in: dnntrain report runs/NAME --max-latency 2ms"
        )
    paths = find_run_directories(words)
    if output is None and len(paths) == 1:
        write_curves(paths[0])
    if output is None and len(words) == 1 and len(paths) > 1:
        output = Path(words[0]).expanduser() / SWEEP_PAGE
    verdicts = render_noise(paths) if len(paths) > 1 else ""
    # A sweep may have a thousand trials; runs that are named one by one are never left out.
    shown, note = select_best_runs(paths) if len(paths) > len(words) else (paths, "")
    page = write_report(shown, output, verdicts, note)
    print(format_json({"report": str(page)}) if arguments.json else format_path(page))
    return 0
