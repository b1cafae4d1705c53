"""`dnntrain bench RUN|EXPORT…`: latency, throughput, memory and size side by side on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from dnntrain.cli.options import count, counts, flag, own_words
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.utils.suggest import did_you_mean

_WORDS = ("batches", "threads", "rounds", "seconds", "runtimes", "exports", "csv", "picture", "accuracy", "trust")

_SUFFIXES = {"csv": "csv", "picture": "png"}
_PICTURES = (".png", ".svg", ".pdf")

#: How the model of a run can be run.
RUNTIMES = ("eager_fp32", "eager_bf16", "compiled_fp32", "compiled_bf16")


def run(arguments: Arguments) -> int:
    """Prints a table, or with --json one object; writes a CSV file and a picture where asked."""
    from dnntrain.bench.measure import measure
    from dnntrain.bench.tables import text_table, write_csv, write_picture
    from dnntrain.inference.load import check_effect
    from dnntrain.utils.hardware import detect

    if not arguments.positional:
        raise ConfigError("bench needs run directories or exports", "as in: dnntrain bench runs/NAME/ID batches=1,64")
    own, others = own_words(arguments.overrides, _WORDS)
    check_effect(others)
    hardware = detect("cpu")
    threads = count(own, "threads", hardware.cores) or 1
    if threads > hardware.cores:
        raise ConfigError(
            f"threads={threads} is more than the {hardware.cores} cores here", f"use threads={hardware.cores}"
        )
    candidates = candidates_of([Path(word).expanduser() for word in arguments.positional], own, others)
    own.setdefault("accuracy", "true")
    for name in _SUFFIXES:
        if name in own:
            check_file(name, Path(own[name]))
    timed = measure(
        candidates,
        counts(own, "batches", (1, 64)),
        threads=threads,
        rounds=count(own, "rounds", 9) or 9,
        seconds=seconds(own),
        accuracy=flag(own, "accuracy"),
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    machine = {"cpu": hardware.cpu_model, "features": hardware.cpu_features, "threads": threads}
    if "csv" in own:
        write_csv(timed, Path(own["csv"]))
    if "picture" in own:
        write_picture(timed, Path(own["picture"]))
    if arguments.json:
        print(json.dumps({"machine": machine, "models": [found.as_json(timed[0]) for found in timed]}))
    else:
        print(f"{hardware.cpu_model}, {threads} threads, features: {' '.join(hardware.cpu_features) or 'none known'}\n")
        print(text_table(timed))
    return 0


def candidates_of(paths: list[Path], own: dict[str, str], overrides: list[str]) -> list[Any]:
    """A run in each of its runtimes with its exports after it; an export as it is. Raises ConfigError for what is neither."""
    from dnntrain.bench.measure import Candidate
    from dnntrain.export.open_export import is_export
    from dnntrain.inference.run_args import check_run

    names = [name for name in own.get("runtimes", ",".join(RUNTIMES)).strip("[]").split(",") if name]
    for name in names:
        if name not in RUNTIMES:
            raise ConfigError(f"runtimes={name} is none of {', '.join(RUNTIMES)}", did_you_mean(name, RUNTIMES))
    shared = {"trust": flag(own, "trust"), "overrides": [*overrides, "device=cpu"]}
    own_device = {**shared, "overrides": overrides}
    own.setdefault("exports", "true")
    several = len(paths) > 1
    found = []
    for path in paths:
        label = f"{path.name} " if several else ""
        if is_export(path):
            found.append(Candidate(str(path), {**(shared if runs_on_cpu(path) else own_device), "path": str(path)}))
            continue
        check_run(path)
        for name in names:
            request = {**shared, "path": str(path), "runtime": name}
            found.append(Candidate(f"{label}{name.replace('_', ' ')}", request))
        folders = sorted((path / "exports").glob("*/")) if flag(own, "exports") else []
        found += [
            Candidate(f"{label}{folder.name}", {**(shared if runs_on_cpu(folder) else own_device), "path": str(folder)})
            for folder in folders
            if is_export(folder)
        ]
    return found


def runs_on_cpu(path: Path) -> bool:
    """True for an export of a format that the processor runs; a damaged one says so when it is loaded."""
    from dnntrain.export.formats import find
    from dnntrain.export.open_export import open_export

    try:
        return "cpu" in find(open_export(path, trust=True).card.format).devices
    except DnntrainError:
        return True


def check_file(name: str, path: Path) -> None:
    """Refuses a file that could not be written once all is measured."""
    if not path.parent.is_dir():
        raise ConfigError(f"{name}={path}: there is no folder {path.parent}", f"make it, or use {name}={path.name}")
    if path.is_dir():
        raise ConfigError(f"{name}={path} is a folder", f"name a file, as in {name}={path / 'bench'}.{_SUFFIXES[name]}")
    if name == "picture" and path.suffix.lower() not in _PICTURES:
        raise ConfigError(
            f"picture={path} is none of {', '.join(_PICTURES)}", f"use picture={path.with_suffix('.png')}"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"{name}={path}: the folder {path.parent} cannot be written ({error.strerror})", "name a file elsewhere"
        ) from None


def seconds(own: dict[str, str]) -> float:
    """About how long one block of calls lasts."""
    try:
        value = float(own.get("seconds", "0.2"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 60:
        raise ConfigError(f"seconds={own['seconds']} is no number above 0 and at most 60", "as in seconds=0.2")
    return value
