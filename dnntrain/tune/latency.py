"""Find the export and the threads with which a network answers fastest on this machine.

Latency does not depend on the weights, so the network of the line is trained for one step. Exports
are made and timed as `dnntrain export --format auto` does, each with several numbers of threads.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.bench.fastest_export import ExportCandidate, export_all, list_exports
from dnntrain.bench.measure import BenchResult, Candidate, find_fastest, measure_candidates
from dnntrain.errors import DnntrainError
from dnntrain.inference.export_run import ExportSource, choose_quantization
from dnntrain.inference.load import load_model
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.tune.speed import Say, SpeedRequest, SpeedResult
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Rounds of each candidate at least and at most, and seconds of a block.
_ROUNDS, _MAX_ROUNDS = 7, 25
_LEAST_BLOCK_S, _MOST_BLOCK_S = 0.02, 0.2
#: The share of the budget that goes to timing; the rest goes to making the exports.
_TIMING_SHARE = 0.5
#: The network as it is, in torch.
_EAGER = "eager"


@dataclass(frozen=True)
class _Entry:
    """A candidate: the export (None: the network as it is), and its threads."""

    export: ExportCandidate | None
    threads: int

    @property
    def name(self) -> str:
        return f"{self.export.name if self.export else _EAGER}, threads {self.threads}"

    def format_options(self) -> str:
        """Return the options of `dnntrain export` that make it, and the threads; empty for the network as it is."""
        if self.export is None:
            return ""
        runtime = "" if self.export.runtime == "eager" else f" --runtime {self.export.runtime}"
        return f"--format {self.export.format}{runtime} --threads {self.threads}"


def find_fast_export(session: Session, request: SpeedRequest, say: Say) -> SpeedResult:
    """Measure exports × threads at each batch size, beside the network as it is with all cores.

    `words` of the result are options of `dnntrain export`, for the first batch size.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        run = Path(name) / "run"
        _train_one_step(request, run, say)
        subject = ExportSource.from_model(load_model(run, (), trust=True))
        # The metric of an untrained network means nothing.
        quant = choose_quantization("auto", ("quant.max_metric_drop=0.99",), subject.loaded_model.config.quant)
        exports = [
            export
            for export in list_exports(quant, quantized_only=False)
            if export.is_exact or request.allow is SpeedGrade.STATISTICAL
        ]
        folder = Path(name) / "exports"
        folder.mkdir()
        cards, skip_reasons = export_all(subject, folder, quant, exports, say)
        entries = [
            _Entry(export, threads)
            for export in (None, *(item for item in exports if item.name in cards))
            for threads in _list_thread_counts()
        ]
        block_s = request.choose_budget_s() * _TIMING_SHARE / (len(entries) * len(request.batches) * _ROUNDS)
        results = measure_candidates(
            [_make_candidate(entry, run, folder) for entry in entries],
            request.batches,
            threads=count_cores(),
            rounds=_ROUNDS,
            max_rounds=_MAX_ROUNDS,
            seconds=min(max(block_s, _LEAST_BLOCK_S), _MOST_BLOCK_S),
            should_evaluate=False,
            say=say,
        )
    return _make_result(entries, results, request.batches, skip_reasons, say)


def _train_one_step(request: SpeedRequest, run: Path, say: Say) -> None:
    """Train the line for one step in a process of its own. Raises DnntrainError if it fails."""
    say("training one step: the time of an answer does not depend on the weights")
    words = request.line.list_words(("train.duration=1step", "log.report=false", f"run_dir={run}"))
    done = subprocess.run(
        request.make_training_command(words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise DnntrainError(f"the line cannot train one step:\n{done.stderr.strip()}")


def _list_thread_counts() -> list[int]:
    cores = count_cores()
    return sorted({1, max(1, cores // 2), cores}, reverse=True)


def _make_candidate(entry: _Entry, run: Path, folder: Path) -> Candidate:
    if entry.export is None:
        values: dict[str, Any] = {"path": str(run), "trust": True, "overrides": ["device=cpu"], "runtime": "eager"}
    else:
        values = {"path": str(folder / entry.export.name), "trust": True, "overrides": []}
    return Candidate(entry.name, values, entry.threads)


def _make_result(
    entries: Sequence[_Entry],
    results: Sequence[BenchResult],
    batches: Sequence[int],
    skip_reasons: dict[str, str],
    say: Say,
) -> SpeedResult:
    """Name the fastest candidate of each batch size, and its ratio to the network as it is with all cores."""
    by_name = {entry.name: entry for entry in entries}
    choices: dict[str, dict[str, Any]] = {}
    for batch in batches:
        winner = find_fastest(results, batch)
        ratio, entry = winner.ratio(results[0], batch), by_name[winner.name]
        is_faster = ratio.excludes(1.0) and ratio.median > 1.0
        latency_ms = 1000 * batch / winner.throughput(batch).median
        text = f"{ratio.median:.2f} × as fast (from {ratio.low:.2f} to {ratio.high:.2f}) as {results[0].name}"
        say(f"batch {batch}: {winner.name}, {latency_ms:.3g} ms, {text if is_faster else 'not faster'}")
        choices[str(batch)] = {
            "options": entry.format_options() if is_faster else "",
            "name": winner.name,
            "threads": entry.threads,
            "latency_ms": latency_ms,
            "ratio": ratio.as_json(),
        }
        if is_faster and entry.export is not None and not entry.export.is_exact:
            say(f"{entry.export.name} changes the numbers: dnntrain export compares the metric of the trained network")
    return SpeedResult(
        words=choices[str(batches[0])]["options"].split(),
        details={
            "batches": choices,
            "measured": [result.as_json(results[0]) for result in results],
            "left_out": skip_reasons,
        },
    )
