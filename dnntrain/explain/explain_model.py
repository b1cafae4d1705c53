"""Explain a run or an export, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnntrain.errors import ConfigError, DataError
from dnntrain.explain.calibration import calibrate
from dnntrain.explain.choose_method import choose_method
from dnntrain.explain.examples import choose_examples, choose_rows, get_default_sets
from dnntrain.explain.explanation import Explanation
from dnntrain.explain.maps import CHECK_EXAMPLES, count_calls, judge_maps
from dnntrain.explain.method import MapMethod
from dnntrain.explain.subject import Subject, compute_split_outputs, limit_split, read_inputs
from dnntrain.inference.evaluate_run import DataSplit, load_data_splits
from dnntrain.inference.load import load_model
from dnntrain.protocols import TargetKind
from dnntrain.utils.rng import Key
from dnntrain.utils.units import format_bytes, format_seconds

#: The fewest validation examples to fit a temperature.
_MIN_FITTING = 50


@dataclass(frozen=True)
class ExplainOptions:
    """The options of the command.

    sets, files  the examples with maps; without both the sets that fit the task
    count        examples of each set
    """

    sets: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    count: int = 8
    method: str = "auto"
    layer: str | None = None
    split: str = "test"


def explain_model(
    path: Path, overrides: Sequence[str], options: ExplainOptions, trust: bool, say: Callable[[str], None]
) -> Explanation:
    """Explain the model of a run or of an export.

    `say` gets the estimated time and memory before the work starts, and each part as it begins.
    Raises ConfigError or DataError if the options do not fit the model.
    """
    start = time.monotonic()
    subject = Subject(load_model(path, overrides, trust))
    subject.check_support()
    key = Key(subject.loaded.config.seed, "explain")
    splits = load_data_splits(subject.loaded)
    split = limit_split(splits[options.split], key)
    if not len(split):
        raise DataError(f"the {options.split} split is empty", "choose another --split, or set data.val_fraction")
    method = _choose_method(subject, split, options)
    parts = ["outputs", "maps and their checks", "calibration"]
    seconds, memory = _estimate(subject, split, method, options)
    total = f"about {format_seconds(seconds)}, {format_bytes(memory)}"

    def begin(number: int) -> None:
        say(f"{total}, {number + 1} of {len(parts)}: {parts[number]}")

    begin(0)
    outputs = compute_split_outputs(subject, split)
    explanation = Explanation(path, _get_name(path), subject, outputs, _list_facts(subject))
    begin(1)
    if method is not None:
        sets = options.sets or (() if options.files else get_default_sets(subject.target_kind))
        examples, inputs = choose_examples(subject, outputs, sets, options.files, options.count, key)
        rows = choose_rows("random", outputs, CHECK_EXAMPLES, subject.target_kind, key.with_stream("explain.check"))
        sample = read_inputs(subject, split, outputs.index[rows]).inputs
        explanation.maps = judge_maps(subject, method, examples, inputs, sample, key)
    begin(2)
    if subject.target_kind is TargetKind.CLASS and outputs.probabilities is not None:
        fitting = limit_split(splits["val"], key)
        pair = None
        if len(fitting) >= _MIN_FITTING:
            values = compute_split_outputs(subject, fitting)
            pair = (values.outputs, values.targets)
        explanation.calibration = calibrate(split.name, outputs.outputs, outputs.probabilities, outputs.targets, pair)
    explanation.seconds = time.monotonic() - start
    return explanation


def _choose_method(subject: Subject, split: DataSplit, options: ExplainOptions) -> MapMethod | None:
    """Return the method of the maps; None for tables."""
    if subject.is_table:
        if options.method != "auto" or options.layer is not None:
            raise ConfigError(
                f"--method {options.method} makes maps of images; the model reads tables", "leave --method out"
            )
        return None
    inputs = read_inputs(subject, split, split.index[:1]).inputs
    return choose_method(options.method, subject.model, inputs, subject.has_gradients, options.layer)


def _estimate(
    subject: Subject, split: DataSplit, method: MapMethod | None, options: ExplainOptions
) -> tuple[float, float]:
    """Return the seconds and the bytes that the work takes, from a measured call of the model."""
    inputs = read_inputs(subject, split, split.index[:32]).inputs
    subject.loaded.compute_outputs(inputs)
    start = time.perf_counter()
    subject.loaded.compute_outputs(inputs)
    call_s = (time.perf_counter() - start) / len(inputs)
    images = CHECK_EXAMPLES + options.count * max(len(options.sets), 2) + len(options.files)
    calls = 2 * len(split) + (images * count_calls(method, subject.has_gradients) if method else 0)
    weights = sum(parameter.numel() * 4 for parameter in subject.model.parameters())
    memory = 3 * weights + 40 * inputs[:1].numel() * 4 * 256
    return calls * call_s, memory


def _get_name(path: Path) -> str:
    absolute = path.absolute()
    return f"{absolute.parent.name}/{absolute.name}"


def _list_facts(subject: Subject) -> list[str]:
    loaded = subject.loaded
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    return [
        "run" if loaded.format == "run" else f"export {loaded.format}",
        loaded.spec.inputs.describe(),
        loaded.spec.targets.describe(),
        f"{parameters:,} parameters" if parameters else "",
        f"on {loaded.device}",
    ]
