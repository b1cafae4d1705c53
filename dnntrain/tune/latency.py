"""Find the export and the threads with which a network answers fastest on this machine.

Latency does not depend on the weights, so the network of the line is trained for a few steps. Exports
are made and timed as `dnntrain export --format auto` does, each with several numbers of threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.bench.candidates import make_export_candidate
from dnntrain.bench.fastest_export import ExportCandidate, export_all, list_exports
from dnntrain.bench.measure import BenchResult, Candidate, find_fastest, measure_candidates
from dnntrain.errors import DnntrainError
from dnntrain.inference.export_run import ExportSource, choose_quantization
from dnntrain.inference.load import load_model
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.tune.speed import Say, SpeedRequest, SpeedResult
from dnntrain.tune.training_process import end_training, read_messages, start_training
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig
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
        _train_briefly(request, session.config, run, say)
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


def list_brief_words(config: RunConfig, run: Path) -> tuple[str, ...]:
    """Return the words with which the line of a configuration trains its final network in three steps into `run`.

    A debugging run fits the durations of schedules and methods to its length. Its batches and its data
    are those of the line.
    """
    train, limit = config.train, config.eval.max_examples
    return (
        "debug=fast",
        "train.duration=3step",
        "eval.every=3step",
        f"train.batch_size={train.batch_size}",
        f"train.max_examples={'null' if train.max_examples is None else train.max_examples}",
        f"eval.max_examples={'null' if limit is None else limit}",
        "log.report=false",
        f"run_dir={run}",
    )


def _train_briefly(request: SpeedRequest, config: RunConfig, run: Path, say: Say) -> None:
    """Train the line for three steps in a process of its own. Raises DnntrainError if it fails."""
    say("training three steps: the time of an answer does not depend on the weights")
    messages = run.with_name("messages.txt")
    process = start_training(request.line.list_words(list_brief_words(config, run)), request.config_dir, messages)
    try:
        process.wait()
    finally:
        end_training(process)
    if process.returncode:
        raise DnntrainError(f"the line cannot train three steps:\n{read_messages(messages)}")


def _list_thread_counts() -> list[int]:
    cores = count_cores()
    return sorted({1, max(1, cores // 2), cores}, reverse=True)


def _make_candidate(entry: _Entry, run: Path, folder: Path) -> Candidate:
    """Return the candidate, which answers on the processor as every export does that can."""
    if entry.export is not None:
        candidate = make_export_candidate(entry.name, folder / entry.export.name, trust=True)
        return replace(candidate, threads=entry.threads)
    values = {"path": str(run), "trust": True, "overrides": ["device=cpu"], "runtime": "eager"}
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
        latency_ms = winner.call_ms(batch).median
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
    if not choices[str(batches[0])]["options"]:
        say(f"no export is known to be faster at batch {batches[0]}, to which the line on stdout belongs")
    return SpeedResult(
        words=choices[str(batches[0])]["options"].split(),
        details={
            "batches": choices,
            "measured": [result.as_json(results[0]) for result in results],
            "left_out": skip_reasons,
        },
    )
