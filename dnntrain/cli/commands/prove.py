"""`dnntrain prove`: decide whether B is better than A, with evidence."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.prove.modes import choose_mode, split_settings
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the verdict; with --exit-code return its exit code."""
    given = arguments.options
    mode = choose_mode(arguments.positional, arguments.given, arguments.overrides)
    from dnntrain.prove.pairs import prepare_comparison
    from dnntrain.prove.run_prove import (
        ProveOptions,
        format_text,
        prove_by_runs,
        prove_by_training,
        prove_sweep,
    )
    from dnntrain.prove.verdict import EXIT_CODES

    options = ProveOptions(**{key: given[key] for key in ("metric", "margin", "alpha", "max_pairs", "assume", "trust")})

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    report = None
    if mode == "sweep":
        folder = Path(arguments.positional[1]).expanduser().absolute()
        results = list(prove_sweep(folder, options, say).values())
        report = folder / "prove.html"
    elif mode == "runs":
        runs_a, runs_b = ([path.absolute() for path in given[key]] for key in ("runs_a", "runs_b"))
        results = [prove_by_runs(runs_a, runs_b, options, say)]
    else:
        words_a, words_b = (split_settings(given[key]) for key in ("a", "b"))
        comparison = prepare_comparison(arguments.overrides, words_a, words_b, arguments.config_dir)
        results = [prove_by_training(comparison, options, arguments.display)]
        report = comparison.folder / "report.html"
    if arguments.json:
        values = [result.as_json() for result in results]
        print(format_json(values if mode == "sweep" else values[0], indent=1))
    else:
        print(format_text(results), *([report] if report else []), sep="\n")
    return EXIT_CODES[results[0].verdict.verdict] if given["exit_code"] and mode != "sweep" else 0
