"""`format=auto`: makes every export that this machine can run, times them side by side, and keeps the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.bench.measure import Candidate, Timed, fastest, measure
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.manifest import MANIFEST, Card, read_manifest, write_manifest
from dnntrain.inference.export_run import Subject, check_target, export, format_of, prepared
from dnntrain.utils.hardware import detect


@dataclass(frozen=True)
class Option:
    """A format, and for a program how it is run."""

    name: str
    format: str
    runtime: str = "eager"


OPTIONS = (
    Option("onnx", "onnx"),
    Option("pt2", "pt2"),
    Option("pt2_bf16", "pt2", "eager_bf16"),
    Option("pt2_compiled", "pt2", "compiled"),
    Option("pt2_compiled_bf16", "pt2", "compiled_bf16"),
    Option("aoti", "aoti"),
    Option("onnx_int8", "onnx_int8"),
    Option("pt2_int8", "pt2_int8"),
)

#: The formats that quantise.
_QUANTISED = ("onnx_int8", "pt2_int8")


def export_fastest(
    subject: Subject,
    target: Path,
    quant: PostTraining,
    *,
    batches: Sequence[int],
    threads: int,
    quantised_only: bool,
    rounds: int = 7,
    most_rounds: int = 25,
    seconds: float = 0.2,
    say: Callable[[str], None],
) -> Card:
    """Writes to `target` the fastest export for each of `batches` whose accuracy is within `quant.max_drop`, and says what was measured.

    Where one format wins at every batch size, it stands in `target` alone; else each winner in a folder of its own. Raises
    CheckpointError where no export can be made.
    """
    check_target(target)
    with prepared(target) as folder:
        made, left_out = _made(subject, folder, quant, quantised_only, say)
        if not made:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise CheckpointError(f"no export could be made: {reasons}", "use format=safetensors")
        timed = measure(
            [Candidate(name, {"path": str(folder / name), "trust": False, "overrides": []}) for name in made],
            batches,
            threads=threads,
            rounds=rounds,
            most_rounds=most_rounds,
            seconds=seconds,
            accuracy=False,
            say=say,
        )
        choices = {batch: fastest(timed, batch).name for batch in batches}
        for batch, name in choices.items():
            say(
                f"batch {batch}: {name} is the fastest within quant.max_drop={quant.max_drop}{_why(timed, batch, name)}"
            )
        details = {
            "choices": {str(batch): name for batch, name in choices.items()},
            "measured": [found.as_json(timed[0]) for found in timed],
            "left_out": left_out,
            "machine": {"cpu": detect("cpu").cpu_model, "features": detect("cpu").cpu_features, "threads": threads},
        }
        _keep(folder, sorted(set(choices.values())), made, details)
    return read_manifest(target)


def _why(timed: Sequence[Timed], batch: int, name: str) -> str:
    """What was measured, and how surely: images per second of each, and those that could not be told from the choice."""
    chosen = next(found for found in timed if found.name == name)
    others = sorted(
        (found for found in timed if found is not chosen), key=lambda found: -found.throughput(batch).median
    )
    listed = ", ".join(f"{found.name} {found.throughput(batch).median:.0f}" for found in [chosen, *others])
    ratios = {found.name: found.ratio(chosen, batch) for found in others}
    near = [
        f"{other} at {ratio.low:.2f} to {ratio.high:.2f} of it" for other, ratio in ratios.items() if ratio.high >= 1
    ]
    apart = f"; within the noise: {', '.join(near)}" if near else ""
    return f" (images/s: {listed}; {len(chosen.rates[batch])} rounds{apart})"


def _made(
    subject: Subject, folder: Path, quant: PostTraining, quantised_only: bool, say: Callable[[str], None]
) -> tuple[dict[str, Card], dict[str, str]]:
    """The exports that could be made, by option, and the reason for each that could not."""
    made: dict[str, Card] = {}
    left_out: dict[str, str] = {}
    for option in OPTIONS:
        quantised = option.format in _QUANTISED
        if (quantised_only and not quantised) or (quantised and option.format not in quant.formats):
            continue
        try:
            found = format_of(option.format)
            made[option.name] = export(
                subject,
                found,
                folder / option.name,
                quant if quantised else None,
                say,
                runtime=option.runtime,
                max_drop=quant.max_drop,
            )
        except (ConfigError, CheckpointError) as error:
            left_out[option.name] = error.message
            say(f"{option.name} is left out: {error.message}")
    return made, left_out


def _keep(folder: Path, kept: Sequence[str], made: dict[str, Card], details: dict[str, Any]) -> None:
    """Leaves only the `kept` exports in `folder`: one as it is, several each in a folder of its own."""
    import shutil

    for name in made:
        if name not in kept:
            shutil.rmtree(folder / name)
    if len(kept) > 1:
        first = made[kept[0]]
        files = [f"{name}/{file}" for name in kept for file in (*made[name].files, MANIFEST)]
        parity = {name: made[name].details.get("parity") for name in kept}
        write_manifest(folder, replace(first, format="auto", details={**details, "parity": parity}), files)
        return
    card = made[kept[0]]
    (folder / kept[0] / MANIFEST).unlink()
    for file in card.files:
        (folder / kept[0] / file).replace(folder / file)
    (folder / kept[0]).rmdir()
    write_manifest(folder, replace(card, details={**card.details, "auto": details}), list(card.files))
