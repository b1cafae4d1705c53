"""`dnntrain bench RUN…`: measure latency, throughput, memory and size side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from dnntrain.cli.parser import Arguments
from dnntrain.inference.option_values import BenchRuntime
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json
from dnntrain.utils.world import check_single_process


def run(arguments: Arguments) -> int:
    """Print a table or, with --json, one object. Also write a CSV file and a picture if the line names them."""
    from dnntrain.bench.measure import check_threads, measure_candidates
    from dnntrain.bench.tables import check_files, format_table, write_files

    check_single_process("bench")
    options, paths = arguments.options, [Path(word).expanduser() for word in arguments.positional]
    hardware = check_threads(options["threads"])
    for path in paths:
        check_model(path, arguments.overrides)
    check_files(options["csv"], options["picture"])
    from dnntrain.bench.candidates import check_has_run, make_candidates
    from dnntrain.run.unfinished import write_unfinished_model

    for name in sorted(arguments.given & {"runtimes", "exports"}):
        check_has_run(paths, f"--{name}")
    for path in paths:
        write_unfinished_model(path, arguments.overrides, options["trust"])
    candidates = make_candidates(
        paths,
        arguments.overrides,
        runtimes=options["runtimes"] or get_args(BenchRuntime),
        with_exports=options["exports"],
        trust=options["trust"],
        warn=lambda text: print(text, file=sys.stderr),
    )
    threads = options["threads"] or hardware.cores
    results = measure_candidates(
        candidates,
        sorted(set(options["batches"])),
        threads=threads,
        rounds=options["rounds"],
        seconds=options["seconds"],
        should_evaluate=options["accuracy"],
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    write_files(results, options["csv"], options["picture"])
    if arguments.json:
        machine = {"cpu": hardware.cpu_model, "features": hardware.cpu_features, "threads": threads}
        print(format_json({"machine": machine, "models": [result.as_json(results[0]) for result in results]}))
    else:
        print(f"{hardware.cpu_model}, {threads} threads, features: {' '.join(hardware.cpu_features) or 'none known'}\n")
        print(format_table(results))
    return 0
