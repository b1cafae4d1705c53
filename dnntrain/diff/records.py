"""Compare what two runs have recorded: configuration, environment, data, rows and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.checkpoint.checkpoint_folder import get_step, list_checkpoints
from dnntrain.config.saved_config import read_saved_config
from dnntrain.config.yaml_io import iterate_leaves
from dnntrain.training.metrics_writer import read_rows
from dnntrain.utils.json_files import read_json

#: A name, its value in A and its value in B.
Difference = tuple[str, Any, Any]

#: Settings that name the run and do not change it.
_NAMES = frozenset({"run_dir", "name"})
#: Values of a row that the clock decides.
_TIMED = frozenset({"wall_s", "examples_per_s"})
#: Parts of env.json that do not change a result, or are compared as settings.
_UNCOMPARED = frozenset({"argv"})


@dataclass(frozen=True)
class RowDifference:
    """The first row of metrics that differs: the numbers, by name, in A and in B."""

    step: int
    split: str
    values: tuple[Difference, ...]


@dataclass(frozen=True)
class RecordDiff:
    """The differences between the records of two runs.

    configuration  settings
    environment    versions, code, hardware and variables
    data           the data set's digest and its sizes
    first_row      the first row of metrics that differs; None if all common rows are equal
    common_rows    number of rows that both runs have
    digests        the digests of the final weights; None where a run has no result
    """

    configuration: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    data: tuple[Difference, ...]
    first_row: RowDifference | None
    common_rows: int
    digests: tuple[str | None, str | None]

    @property
    def has_same_result(self) -> bool:
        """True if both runs are finished with the same weights."""
        return self.digests[0] is not None and self.digests[0] == self.digests[1]


def compare_records(first: Path, second: Path) -> RecordDiff:
    """Compare the files of two run directories.

    Raises CheckpointError if the saved configuration of one is missing or damaged.
    """
    config_1, config_2 = (flatten(read_saved_config(path)) for path in (first, second))
    environment_1, environment_2 = (flatten(read_json(path / "env.json")) for path in (first, second))
    rows_1, rows_2 = (index_rows(read_rows(path / "metrics.jsonl")) for path in (first, second))
    digest_1, digest_2 = (read_json(path / "result.json").get("digest") for path in (first, second))
    return RecordDiff(
        configuration=list_differences(config_1, config_2, without=_NAMES),
        environment=list_differences(environment_1, environment_2, without=_UNCOMPARED),
        data=list_differences(_describe_data(first), _describe_data(second)),
        first_row=find_first_difference(rows_1, rows_2),
        common_rows=len(rows_1.keys() & rows_2.keys()),
        digests=(digest_1, digest_2),
    )


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of nested mappings by key as it is typed: `optim.lr`."""
    return {".".join(keys): value for keys, value in iterate_leaves(values)}


def list_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], without: frozenset[str] = frozenset()
) -> tuple[Difference, ...]:
    """Return the names whose values differ, in the order of `first`; a missing value is None."""
    names = [name for name in dict.fromkeys((*first, *second)) if name.partition(".")[0] not in without]
    return tuple(
        (name, first.get(name), second.get(name)) for name in names if not is_equal(first.get(name), second.get(name))
    )


def is_equal(first: Any, second: Any) -> bool:
    """Return True if two values of JSON are equal; NaN equals NaN."""
    return bool(first == second) or (first != first and second != second)


def index_rows(rows: list[dict[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the rows by (step, split), in order; events have no number that can be compared."""
    return {(row["step"], row["split"]): row for row in rows if "step" in row and row.get("split") in ("train", "val")}


def find_first_difference(
    first: Mapping[tuple[int, str], Mapping[str, Any]], second: Mapping[tuple[int, str], Mapping[str, Any]]
) -> RowDifference | None:
    """Return the first row in which a common number differs."""
    for (step, split), row in first.items():
        other = second.get((step, split), {})
        names = [name for name in row if name in other and name not in _TIMED]
        values = tuple((name, row[name], other[name]) for name in names if not is_equal(row[name], other[name]))
        if values:
            return RowDifference(step, split, values)
    return None


def find_common_checkpoint(first: Path, second: Path, before: int) -> int:
    """Return the last step, before step `before`, at which both runs have saved the same bytes; 0 if none."""
    saved = [{get_step(path): path for path in list_checkpoints(run / "checkpoints")} for run in (first, second)]
    for step in sorted(saved[0].keys() & saved[1].keys(), reverse=True):
        files = [read_json(paths[step] / "manifest.json").get("files") for paths in saved]
        if step < before and files[0] and files[0] == files[1]:
            return step
    return 0


def _describe_data(path: Path) -> dict[str, Any]:
    """Return the digest of the data and the number of examples of each split."""
    steps = list_checkpoints(path / "checkpoints")
    digest = read_json(steps[-1] / "manifest.json").get("data") if steps else None
    plan = read_json(path / "plan.json").get("data")
    return {"digest": digest, **(plan if isinstance(plan, dict) else {})}
