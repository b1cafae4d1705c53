"""Make every export that this machine can run, and keep the fastest.

This implements `--format auto`. The exports are timed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.bench.candidates import make_export_candidate
from dnntrain.bench.measure import BenchResult, find_fastest, measure_candidates
from dnntrain.choices.quant._backends import BACKENDS
from dnntrain.errors import CheckpointError, Stopped
from dnntrain.export.manifest import MANIFEST_NAME, Manifest, check_target, read_manifest, write_manifest
from dnntrain.export.output_dir import atomic_output_dir
from dnntrain.inference.export_run import ExportSource, get_installed_format, write_export
from dnntrain.protocols import QuantChoice
from dnntrain.utils.explain_error import explain_error, get_first_line
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.units import format_seconds, pluralize


@dataclass(frozen=True)
class ExportCandidate:
    """A format, and the runtime of a program."""

    name: str
    format: str
    runtime: str = "eager"

    @property
    def is_exact(self) -> bool:
        """Whether its outputs equal the source's up to rounding."""
        return self.format not in _QUANTIZED_FORMATS and not self.runtime.endswith("bf16")


EXPORT_CANDIDATES = (
    ExportCandidate("onnx", "onnx"),
    ExportCandidate("openvino", "openvino"),
    ExportCandidate("openvino_bf16", "openvino", "eager_bf16"),
    ExportCandidate("pt2", "pt2"),
    ExportCandidate("pt2_bf16", "pt2", "eager_bf16"),
    ExportCandidate("pt2_compiled", "pt2", "compiled"),
    ExportCandidate("pt2_compiled_bf16", "pt2", "compiled_bf16"),
    ExportCandidate("aoti", "aoti"),
    ExportCandidate("onnx_int8", "onnx_int8"),
    ExportCandidate("pt2_int8", "pt2_int8"),
    ExportCandidate("openvino_int8", "openvino_int8"),
)

#: Seconds that an export takes on average; a compiled one takes longer.
_EXPORT_S = 20.0

#: The formats that quantize.
_QUANTIZED_FORMATS = tuple(backend.format for backend in BACKENDS.values())


def export_fastest(
    subject: ExportSource,
    target: Path,
    quant: QuantChoice,
    *,
    batches: Sequence[int],
    threads: int,
    quantized_only: bool,
    rounds: int = 7,
    max_rounds: int = 25,
    seconds: float = 0.2,
    say: Callable[[str], None],
) -> Manifest:
    """Write to `target` the fastest export for each of `batches`.

    Only exports whose drop of the task's metric is within `quant.max_metric_drop` count. `say` gets
    the measurements. If one format wins at every batch size, `target` holds it alone; else each
    winner has its own folder. Raises CheckpointError if no export can be made.
    """
    check_target(target)
    with atomic_output_dir(target) as folder:
        cards, skip_reasons = export_all(subject, folder, quant, list_exports(quant, quantized_only), say)
        if not cards:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skip_reasons.items())
            raise CheckpointError(f"no export could be made: {reasons}", "use --format safetensors")
        results = _measure_exports(
            folder,
            list(cards),
            batches,
            skip_reasons,
            say,
            threads=threads,
            rounds=rounds,
            max_rounds=max_rounds,
            seconds=seconds,
        )
        choices = {batch: find_fastest(results, batch).name for batch in batches}
        for batch, name in choices.items():
            limit = f"quant.max_metric_drop={quant.max_metric_drop}"
            say(f"batch {batch}: {name} is the fastest within {limit}{_format_evidence(results, batch, name)}")
        details = {
            "choices": {str(batch): name for batch, name in choices.items()},
            "measured": [result.as_json(results[0]) for result in results],
            "left_out": skip_reasons,
            "machine": {
                "cpu": probe_hardware("cpu").cpu_model,
                "features": probe_hardware("cpu").cpu_features,
                "threads": threads,
            },
        }
        _keep_exports(folder, sorted(set(choices.values())), cards, details)
    return read_manifest(target)


def _measure_exports(
    folder: Path,
    names: Sequence[str],
    batches: Sequence[int],
    skip_reasons: dict[str, str],
    say: Callable[[str], None],
    **timing: Any,
) -> list[BenchResult]:
    """Return the timings of the exports in `folder`; `skip_reasons` gets each that cannot be timed."""
    unmeasured: list[str] = []

    def note_unmeasured(text: str) -> None:
        say(text)
        unmeasured.append(text.splitlines()[0])

    results = measure_candidates(
        [make_export_candidate(name, folder / name, trust=True) for name in names],
        batches,
        should_evaluate=False,
        say=say,
        skip=note_unmeasured,
        **timing,
    )
    timed_names = {result.name for result in results}
    skip_reasons |= zip([name for name in names if name not in timed_names], unmeasured, strict=True)
    return results


def _format_evidence(results: Sequence[BenchResult], batch: int, name: str) -> str:
    """Return the images, rows or tokens per second of each export, and those within the noise."""
    winner = next(result for result in results if result.name == name)
    rivals = sorted(
        (result for result in results if result is not winner), key=lambda result: -result.throughput(batch).median
    )
    rates_text = ", ".join(f"{result.name} {result.throughput(batch).median:.0f}" for result in [winner, *rivals])
    ratios = {result.name: result.ratio(winner, batch) for result in rivals}
    close_rivals = [
        f"{other} at {ratio.low:.2f} to {ratio.high:.2f} of it" for other, ratio in ratios.items() if ratio.high >= 1
    ]
    noise_note = f"; within the noise: {', '.join(close_rivals)}" if close_rivals else ""
    return f" ({winner.unit}/s: {rates_text}; {len(winner.rates[batch])} rounds{noise_note})"


def list_exports(quant: QuantChoice, quantized_only: bool) -> list[ExportCandidate]:
    """Return the exports that are tried, with the integer ones that `quant` can make."""
    return [
        candidate
        for candidate in EXPORT_CANDIDATES
        if (candidate.format in quant.formats if candidate.format in _QUANTIZED_FORMATS else not quantized_only)
    ]


def export_all(
    subject: ExportSource,
    folder: Path,
    quant: QuantChoice,
    candidates: Sequence[ExportCandidate],
    say: Callable[[str], None],
) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Write each export to its own folder; return those by name, and the reason for each that failed.

    Any error leaves out one export, as a compiler that is not installed; a request to stop ends all.
    """
    cards: dict[str, Manifest] = {}
    skip_reasons: dict[str, str] = {}
    say(f"making {pluralize(len(candidates), 'export')}: about {format_seconds(_EXPORT_S * len(candidates))}")
    for number, candidate in enumerate(candidates, 1):
        is_quantized = candidate.format in _QUANTIZED_FORMATS
        say(f"{number} of {len(candidates)}: {candidate.name}")
        try:
            export_format = get_installed_format(candidate.format)
            cards[candidate.name] = write_export(
                subject,
                export_format,
                folder / candidate.name,
                quant if is_quantized else None,
                say,
                runtime=candidate.runtime,
                max_drop=quant.max_metric_drop,
            )
        except Stopped:
            raise
        except Exception as error:  # the tools of a format raise errors of many kinds
            skip_reasons[candidate.name] = _describe_failure(error)
            say(f"{candidate.name} is skipped: {skip_reasons[candidate.name]}")
    return cards, skip_reasons


def _describe_failure(error: Exception) -> str:
    """Return the message of an error that can be explained, or the kind and the first line of another."""
    explained = explain_error(error)
    return f"{type(error).__name__}: {get_first_line(error)}" if explained is None else explained.message


def _keep_exports(folder: Path, kept_names: Sequence[str], cards: dict[str, Manifest], details: dict[str, Any]) -> None:
    """Keep only the exports `kept_names` in `folder`.

    A single export is moved to `folder`; several keep their own folders.
    """
    import shutil

    for name in cards:
        if name not in kept_names:
            shutil.rmtree(folder / name)
    if len(kept_names) > 1:
        first = cards[kept_names[0]]
        files = [f"{name}/{file}" for name in kept_names for file in (*cards[name].files, MANIFEST_NAME)]
        parity = {name: cards[name].details.get("parity") for name in kept_names}
        write_manifest(folder, replace(first, format="auto", details={**details, "parity": parity}), files)
        return
    card = cards[kept_names[0]]
    (folder / kept_names[0] / MANIFEST_NAME).unlink()
    for file in card.files:
        (folder / kept_names[0] / file).replace(folder / file)
    (folder / kept_names[0]).rmdir()
    write_manifest(folder, replace(card, details={**card.details, "auto": details}), list(card.files))
