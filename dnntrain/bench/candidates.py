"""List the candidates of a benchmark.

A run has one candidate for each runtime and export; an export is one candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dnntrain.bench.measure import Candidate
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.export.formats import get_format
from dnntrain.export.manifest import is_export
from dnntrain.export.open_export import open_export
from dnntrain.inference.load import check_effect
from dnntrain.inference.run_args import check_run


def make_candidates(
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    runtimes: Sequence[str],
    with_exports: bool = True,
    trust: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Candidate]:
    """Return the candidates of runs and exports, in their order.

    A program among the exports of a run is measured only with `trust`; `warn` gets a note of each
    that is left out. Raises ConfigError for a path that is neither, CheckpointError for a program
    that is named without `trust`.
    """
    check_effect(overrides)
    candidates: list[Candidate] = []
    for path in paths:
        label = f"{path.name} " if len(paths) > 1 else ""
        if is_export(path):
            if not trust:
                open_export(path).check_trust(trust)
            candidates.append(make_export_candidate(str(path), path, overrides, trust=trust))
            continue
        check_run(path)
        candidates += _iterate_runtimes(
            path, label, runtimes, {"trust": trust, "overrides": [*overrides, "device=cpu"]}
        )
        if with_exports:
            folders = _select_exports(path / "exports", trust, warn)
            candidates += [
                make_export_candidate(f"{label}{folder.name}", folder, overrides, trust=trust) for folder in folders
            ]
    return candidates


def _select_exports(folder: Path, trust: bool, warn: Callable[[str], None]) -> list[Path]:
    """Return the exports in `folder` that may be loaded."""
    folders = [path for path in sorted(folder.glob("*/")) if is_export(path)]
    programs = [path for path in folders if _is_program(path) and not trust]
    for path in programs:
        warn(f"{path} is left out: it is a program, which would run; to measure it, add --trust")
    return [path for path in folders if path not in programs]


def _is_program(path: Path) -> bool:
    """Return whether the export is a program. A damaged export is reported when it is loaded."""
    try:
        return open_export(path).is_program
    except DnntrainError:
        return False


def check_has_run(paths: Sequence[Path], option: str) -> None:
    """Raise ConfigError if `option` is given for exports only.

    `option` selects how a run is measured.
    """
    if all(is_export(path) for path in paths):
        raise ConfigError(f"{option} does not apply to an export", "name a run directory, or leave it out")


def _iterate_runtimes(
    path: Path, label: str, runtimes: Sequence[str], request: dict[str, object]
) -> Iterator[Candidate]:
    for name in runtimes:
        yield Candidate(f"{label}{name.replace('_', ' ')}", {**request, "path": str(path), "runtime": name})


def make_export_candidate(name: str, path: Path, overrides: Sequence[str] = (), *, trust: bool) -> Candidate:
    """Return the candidate of an export: on the CPU if its format runs there, so that all are compared there."""
    device = ["device=cpu"] if can_run_on_cpu(path) else []
    return Candidate(name, {"trust": trust, "overrides": [*overrides, *device], "path": str(path)})


def can_run_on_cpu(path: Path) -> bool:
    """Return whether a CPU can run the export.

    A damaged export is reported when it is loaded.
    """
    try:
        return "cpu" in get_format(open_export(path).manifest.format).devices
    except DnntrainError:
        return True
