"""`dnntrain bench RUN|EXPORT…`: latency, throughput, memory and size side by side on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from dnntrain.cli.options import get_flag, get_int, get_int_list, split_command_options
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.utils.suggest import did_you_mean

_OPTIONS = ("batches", "threads", "rounds", "seconds", "runtimes", "exports", "csv", "picture", "accuracy", "trust")

_SUFFIXES = {"csv": "csv", "picture": "png"}
_PICTURE_SUFFIXES = (".png", ".svg", ".pdf")

#: How the model of a run can be run.
RUNTIMES = ("eager_fp32", "eager_bf16", "compiled_fp32", "compiled_bf16")


def run(arguments: Arguments) -> int:
    """Prints a table, or with --json one object; writes a CSV file and a picture where asked."""
    from dnntrain.bench.measure import measure_candidates
    from dnntrain.bench.tables import format_table, write_csv, write_picture
    from dnntrain.inference.load import check_effect
    from dnntrain.utils.hardware import probe_hardware

    if not arguments.positional:
        raise ConfigError("bench needs run directories or exports", "as in: dnntrain bench runs/NAME/ID batches=1,64")
    options, overrides = split_command_options(arguments.overrides, _OPTIONS)
    check_effect(overrides)
    hardware = probe_hardware("cpu")
    threads = get_int(options, "threads", hardware.cores) or 1
    if threads > hardware.cores:
        raise ConfigError(
            f"threads={threads} is more than the {hardware.cores} cores here", f"use threads={hardware.cores}"
        )
    candidates = make_candidates([Path(word).expanduser() for word in arguments.positional], options, overrides)
    options.setdefault("accuracy", "true")
    for name in _SUFFIXES:
        if name in options:
            check_output_file(name, Path(options[name]))
    results = measure_candidates(
        candidates,
        get_int_list(options, "batches", (1, 64)),
        threads=threads,
        rounds=get_int(options, "rounds", 9) or 9,
        seconds=get_seconds(options),
        accuracy=get_flag(options, "accuracy"),
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    machine = {"cpu": hardware.cpu_model, "features": hardware.cpu_features, "threads": threads}
    if "csv" in options:
        write_csv(results, Path(options["csv"]))
    if "picture" in options:
        write_picture(results, Path(options["picture"]))
    if arguments.json:
        print(json.dumps({"machine": machine, "models": [result.as_json(results[0]) for result in results]}))
    else:
        print(f"{hardware.cpu_model}, {threads} threads, features: {' '.join(hardware.cpu_features) or 'none known'}\n")
        print(format_table(results))
    return 0


def make_candidates(paths: list[Path], options: dict[str, str], overrides: list[str]) -> list[Any]:
    """A run in each of its runtimes with its exports after it; an export as it is. Raises ConfigError for what is neither."""
    from dnntrain.bench.measure import Candidate
    from dnntrain.export.open_export import is_export
    from dnntrain.inference.run_args import check_run

    names = [name for name in options.get("runtimes", ",".join(RUNTIMES)).strip("[]").split(",") if name]
    for name in names:
        if name not in RUNTIMES:
            raise ConfigError(f"runtimes={name} is none of {', '.join(RUNTIMES)}", did_you_mean(name, RUNTIMES))
    cpu_request = {"trust": get_flag(options, "trust"), "overrides": [*overrides, "device=cpu"]}
    device_request = {**cpu_request, "overrides": overrides}
    options.setdefault("exports", "true")
    has_several = len(paths) > 1
    candidates = []
    for path in paths:
        label = f"{path.name} " if has_several else ""
        if is_export(path):
            candidates.append(
                Candidate(str(path), {**(cpu_request if can_run_on_cpu(path) else device_request), "path": str(path)})
            )
            continue
        check_run(path)
        for name in names:
            request = {**cpu_request, "path": str(path), "runtime": name}
            candidates.append(Candidate(f"{label}{name.replace('_', ' ')}", request))
        folders = sorted((path / "exports").glob("*/")) if get_flag(options, "exports") else []
        candidates += [
            Candidate(
                f"{label}{folder.name}",
                {**(cpu_request if can_run_on_cpu(folder) else device_request), "path": str(folder)},
            )
            for folder in folders
            if is_export(folder)
        ]
    return candidates


def can_run_on_cpu(path: Path) -> bool:
    """True for an export of a format that the processor runs; a damaged one says so when it is loaded."""
    from dnntrain.export.formats import get_format
    from dnntrain.export.open_export import open_export

    try:
        return "cpu" in get_format(open_export(path, trust=True).manifest.format).devices
    except DnntrainError:
        return True


def check_output_file(name: str, path: Path) -> None:
    """Refuses a file that could not be written once all is measured."""
    if not path.parent.is_dir():
        raise ConfigError(f"{name}={path}: there is no folder {path.parent}", f"make it, or use {name}={path.name}")
    if path.is_dir():
        raise ConfigError(f"{name}={path} is a folder", f"name a file, as in {name}={path / 'bench'}.{_SUFFIXES[name]}")
    if name == "picture" and path.suffix.lower() not in _PICTURE_SUFFIXES:
        raise ConfigError(
            f"picture={path} is none of {', '.join(_PICTURE_SUFFIXES)}", f"use picture={path.with_suffix('.png')}"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"{name}={path}: the folder {path.parent} cannot be written ({error.strerror})", "name a file elsewhere"
        ) from None


def get_seconds(options: dict[str, str]) -> float:
    """About how long one block of calls lasts."""
    try:
        value = float(options.get("seconds", "0.2"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 60:
        raise ConfigError(f"seconds={options['seconds']} is no number above 0 and at most 60", "as in seconds=0.2")
    return value
