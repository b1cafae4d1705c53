"""List the candidates of a benchmark.

A run has one candidate for each runtime and export; an export is one candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dnntrain.bench.measure import Candidate
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.export.formats import get_format
from dnntrain.export.open_export import is_export, open_export
from dnntrain.inference.load import check_effect
from dnntrain.inference.run_args import check_run


def make_candidates(
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    runtimes: Sequence[str],
    with_exports: bool = True,
    trust: bool = False,
) -> list[Candidate]:
    """Return the candidates of runs and exports, in their order.

    Raises ConfigError for a path that is neither.
    """
    check_effect(overrides)
    candidates: list[Candidate] = []
    for path in paths:
        label = f"{path.name} " if len(paths) > 1 else ""
        if is_export(path):
            candidates.append(Candidate(str(path), _make_request(path, overrides, trust)))
            continue
        check_run(path)
        candidates += _iterate_runtimes(
            path, label, runtimes, {"trust": trust, "overrides": [*overrides, "device=cpu"]}
        )
        if with_exports:
            folders = [folder for folder in sorted((path / "exports").glob("*/")) if is_export(folder)]
            candidates += [
                Candidate(f"{label}{folder.name}", _make_request(folder, overrides, trust)) for folder in folders
            ]
    return candidates


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


def _make_request(path: Path, overrides: Sequence[str], trust: bool) -> dict[str, object]:
    """Return the load request for an export: on the CPU if its format runs there."""
    device = ["device=cpu"] if can_run_on_cpu(path) else []
    return {"trust": trust, "overrides": [*overrides, *device], "path": str(path)}


def can_run_on_cpu(path: Path) -> bool:
    """Return whether a CPU can run the export.

    A damaged export is reported when it is loaded.
    """
    try:
        return "cpu" in get_format(open_export(path, trust=True).manifest.format).devices
    except DnntrainError:
        return True
