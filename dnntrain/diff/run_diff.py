"""`dnntrain diff`: compare the records of two runs, and train both again up to the step where they part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.diff.records import Difference, RecordDiff, compare_records, find_common_checkpoint
from dnntrain.errors import ConfigError
from dnntrain.utils.json_files import read_json
from dnntrain.utils.units import pluralize

if TYPE_CHECKING:
    from dnntrain.diff.replay import Parting, Replay

#: Lines of a section, and tensors, that the text lists.
_MAX_LINES = 20
_MAX_TENSORS = 5


@dataclass(frozen=True)
class RunDiff:
    """The differences between two runs.

    replay      where training parts; None if it was not made, for the reason `no_replay`
    is_limited  whether the limit of steps ended it
    """

    records: RecordDiff
    replay: Replay | None
    no_replay: str = ""
    is_limited: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the differences as plain values."""
        return {**asdict(self.records), "replay": asdict(self.replay) if self.replay else None, "note": self.no_replay}


def diff_runs(paths: tuple[Path, Path], *, replay: bool, max_steps: int, trust: bool) -> RunDiff:
    """Compare two runs; with `replay`, train at most `max_steps` steps of both to find where they part.

    Raises ConfigError if a run names code that nobody trusts, CheckpointError if its files are damaged.
    """
    records = compare_records(*paths)
    reason = "not asked for" if not replay else _find_obstacle(records, paths)
    if reason:
        return RunDiff(records, None, reason)
    from dnntrain.config.groups import LISTS, SINGLE
    from dnntrain.config.saved_config import read_saved_config
    from dnntrain.diff.replay import replay_runs
    from dnntrain.inference.run_args import decode_foreign

    first, second = (
        decode_foreign(read_saved_config(path), path, (), trust=trust, groups=(*SINGLE, *LISTS)) for path in paths
    )
    parted_at = records.first_row.step if records.first_row is not None else None
    start = find_common_checkpoint(*paths, before=parted_at if parted_at is not None else 1 << 62)
    end = min(start + max_steps, parted_at if parted_at is not None else 1 << 62)
    replay_result = replay_runs((first, second), paths, start, end)
    return RunDiff(records, replay_result, is_limited=replay_result.end == start + max_steps)


def _find_obstacle(records: RecordDiff, paths: tuple[Path, Path]) -> str:
    """Return why training both runs again finds nothing or cannot be done; empty if it can."""
    if records.has_same_result and records.first_row is None:
        return "both runs ended with the same weights"
    for path in paths:
        ranks = read_json(path / "plan.json").get("ranks", 1)
        if ranks != 1:
            return f"{path} trained on {ranks} ranks, and only runs of one process are trained again"
    return ""


def check_different(paths: tuple[Path, Path]) -> None:
    """Raise ConfigError if both words name the same run."""
    if paths[0].resolve() == paths[1].resolve():
        raise ConfigError(f"{paths[0]} and {paths[1]} are the same run", "name two runs: dnntrain diff RUN RUN")


def format_diff(diff: RunDiff, paths: tuple[Path, Path]) -> Iterator[str]:
    """Yield the lines of the comparison."""
    records = diff.records
    yield f"A  {paths[0]}"
    yield f"B  {paths[1]}"
    for title, differences in (
        ("configuration", records.configuration),
        ("environment", records.environment),
        ("data", records.data),
    ):
        yield from _format_section(title, differences)
    if records.first_row is None:
        equal = ", all equal" if records.common_rows else ""
        yield f"metrics: {pluralize(records.common_rows, 'common row')}{equal}"
    else:
        row = records.first_row
        yield from _format_section(f"metrics: the first different row is step {row.step}, {row.split}", row.values)
    if records.has_same_result:
        yield "result: the same weights"
    elif None not in records.digests:
        yield "result: different weights"
    yield from _format_replay(diff)


def _format_section(title: str, differences: tuple[Difference, ...]) -> Iterator[str]:
    if not differences:
        yield f"{title}: equal"
        return
    yield f"{title}:"
    width = max(len(name) for name, _, _ in differences[:_MAX_LINES])
    for name, first, second in differences[:_MAX_LINES]:
        yield f"  {name:<{width}}  {_format_value(first)} → {_format_value(second)}"
    if len(differences) > _MAX_LINES:
        yield f"  and {len(differences) - _MAX_LINES} more; --json lists all"


def _format_value(value: Any) -> str:
    text = "(missing)" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _format_replay(diff: RunDiff) -> Iterator[str]:
    replay = diff.replay
    if replay is None:
        yield f"training again: no, {diff.no_replay}" if diff.no_replay != "not asked for" else "training again: no"
        return
    origin = "the beginning" if replay.start == 0 else f"their common checkpoint of step {replay.start}"
    if replay.parting is None:
        steps = pluralize(replay.end - replay.start, "step")
        yield f"training again from {origin}: {steps}, and both runs are equal. {_explain_equal(diff)}"
        return
    yield f"training again from {origin}:"
    yield from (f"  {line}" for line in _format_parting(replay.parting))


def _explain_equal(diff: RunDiff) -> str:
    """Return why no step parted the runs, or what finds it."""
    assert diff.replay is not None
    if diff.records.first_row is not None and diff.replay.end >= diff.records.first_row.step:
        return (
            f"Their rows differ at step {diff.records.first_row.step}: another machine, or other versions, made the "
            "difference"
        )
    if not diff.is_limited:
        return "Neither has a further step"
    return "--steps trains more"


def _format_parting(parting: Parting) -> Iterator[str]:
    if parting.step == 0:
        yield "the initial weights differ"
    else:
        yield f"the runs part in step {parting.step}"
    if parting.batch:
        yield f"in its batch, {parting.batch} differ"
    if parting.learning_rates is not None:
        yield f"its learning rate differs: {parting.learning_rates[0]:.6g} → {parting.learning_rates[1]:.6g}"
    if not parting.tensors:
        yield "after it, all tensors of the model are equal"
        return
    yield f"{len(parting.tensors)} of {pluralize(parting.total, 'tensor')} differ; the first:"
    for tensor in parting.tensors[:_MAX_TENSORS]:
        size = "" if tensor.largest_difference is None else f"  by at most {tensor.largest_difference:.3g}"
        yield f"  {tensor.name}{size or '  another shape, or in one run only'}"
