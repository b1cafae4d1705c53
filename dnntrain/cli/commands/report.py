"""`dnntrain report RUN…`: write the report of a run, or compare runs or the trials of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.sweep.run_directories import find_run_directories
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
    paths = find_run_directories(arguments.positional)
    if output is None and len(paths) == 1:
        write_curves(paths[0])
    words = arguments.positional
    if output is None and len(words) == 1 and len(paths) > 1:
        output = Path(words[0]).expanduser() / SWEEP_PAGE
    page = write_report(paths, output)
    print(json.dumps({"report": str(page)}) if arguments.json else format_path(page))
    return 0
