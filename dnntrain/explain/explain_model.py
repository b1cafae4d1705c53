"""Explain a run or an export, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dnntrain.checkpoint.digests import compute_weights_digest
from dnntrain.errors import ConfigError, DataError
from dnntrain.explain import blame, directions, embedding, similarity
from dnntrain.explain.choose_method import choose_method
from dnntrain.explain.choose_token_method import choose_token_method
from dnntrain.explain.comparison import check_same_form
from dnntrain.explain.directions import find_checkpoints
from dnntrain.explain.examples import get_default_sets
from dnntrain.explain.explanation import Explanation
from dnntrain.explain.layers import list_weight_layers
from dnntrain.explain.map_share import MapShare
from dnntrain.explain.maps import CHECK_EXAMPLES, count_calls
from dnntrain.explain.method import MapMethod
from dnntrain.explain.occlusion import make_occlusion
from dnntrain.explain.parts import list_parts
from dnntrain.explain.subject import Subject, compute_split_outputs, limit_split, read_inputs
from dnntrain.explain.work import ExplainOptions, Work
from dnntrain.inference.evaluate_run import DataSplit, load_data_splits
from dnntrain.inference.load import load_model
from dnntrain.utils.rng import Key
from dnntrain.utils.units import format_bytes, format_seconds


def explain_model(
    path: Path,
    overrides: Sequence[str],
    options: ExplainOptions,
    trust: bool,
    say: Callable[[str], None],
    share: MapShare | None = None,
) -> Explanation:
    """Explain the model of a run or of an export.

    `say` gets the estimated time and memory before the work starts, and each part as it begins.
    Of several ranks that `share` the maps, the main one returns the explanation, and others a part of it.
    Raises ConfigError or DataError if the options do not fit the model.
    """
    start = time.monotonic()
    work = _prepare(path, overrides, options, trust, say, share or MapShare())
    parts = list_parts(work)
    seconds, memory = _estimate(work)
    total = f"about {format_seconds(seconds)}, {format_bytes(memory)}"
    say(f"{total}, 1 of {len(parts) + 1}: outputs")
    explanation = work.explanation
    explanation.outputs = compute_split_outputs(work.subject, work.split)
    for number, (title, make_part) in enumerate(parts, 2):
        say(f"{total}, {number} of {len(parts) + 1}: {title}")
        make_part(work)
    explanation.seconds = time.monotonic() - start
    return explanation


def _prepare(
    path: Path,
    overrides: Sequence[str],
    options: ExplainOptions,
    trust: bool,
    say: Callable[[str], None],
    share: MapShare,
) -> Work:
    """Load the models and the data, and check that the options fit them."""
    subject = Subject(load_model(path, overrides, trust, share.world))
    subject.check_support()
    if subject.is_table and share.world.size > 1:
        raise ConfigError(
            "the ranks of torchrun share the maps of images and texts; the model reads tables, which have no maps",
            f"start it without torchrun: dnntrain explain {path}",
        )
    share.check_agreement({"weights": compute_weights_digest(subject.model), "torch": torch.__version__})
    _check_example_options(subject, options)
    other = None
    if options.against is not None:
        other = Subject(load_model(options.against, (), trust, share.world))
        check_same_form(subject, other, str(options.against))
    key = Key(subject.loaded.config.seed, "explain")
    splits = load_data_splits(subject.loaded)
    if options.split == "all":
        raise ConfigError("--split all: explain needs examples of one split", "use --split train, val or test")
    split = limit_split(splits[options.split], key, subject.max_examples)
    if not len(split):
        raise DataError(f"the {options.split} split is empty", "choose another --split, or set data.val_fraction")
    if subject.is_text:
        counted = splits["train"] if len(splits["train"]) else split
        method: MapMethod | None = choose_token_method(options.method, subject, counted, key)
    else:
        method = _choose_method(subject, split, options, other)
    checkpoints = _list_checkpoints(path, subject) if options.directions else []
    name = "" if options.against is None else _get_name(options.against)
    other_method = _choose_other_method(method, other, split) if method is not None else make_occlusion(1, 1)
    explanation = _make_explanation(path, subject, split.name)
    activation_bytes = _measure_activations(subject.model, read_inputs(subject, split, split.index[:1]).inputs)
    return Work(
        options=options,
        overrides=overrides,
        trust=trust,
        say=say,
        splits=splits,
        split=split,
        key=key,
        method=method,
        activation_bytes=activation_bytes,
        other=other,
        other_name=name,
        other_method=other_method,
        explanation=explanation,
        checkpoints=checkpoints,
        share=share,
    )


def _check_example_options(subject: Subject, options: ExplainOptions) -> None:
    """Raise ConfigError if the model does not support the examples that are asked for."""
    if "uncertain" in options.sets and "uncertain" not in get_default_sets(subject.target_kind):
        raise ConfigError(
            "--examples uncertain: a number has no probability, so its uncertainty is unknown",
            "use --examples worst, or random",
        )
    if subject.is_table and (options.files or options.sets):
        raise ConfigError("--examples chooses images with maps; the model reads tables", "leave --examples out")
    if subject.is_text:
        _check_text_options(options)


def _make_explanation(path: Path, subject: Subject, split_name: str) -> Explanation:
    """Return an explanation without maps, with a note if the model gives outputs only."""
    explanation = Explanation(path, _get_name(path), subject, split_name, _list_facts(subject))
    if not subject.has_gradients:
        explanation.notes.append(
            f"the export {subject.loaded.format} gives outputs only: without its weights there are no layers, no "
            "embedding and no check by random weights"
        )
    return explanation


def _list_checkpoints(path: Path, subject: Subject) -> list[Path]:
    """Return the checkpoints whose directions are looked along. Raises ConfigError for an export."""
    if subject.loaded.format != "run":
        raise ConfigError(
            "--directions needs the checkpoints of a run, and an export has none", "name the run, or leave it out"
        )
    return find_checkpoints(path)


def _check_text_options(options: ExplainOptions) -> None:
    """Raise ConfigError for options that do not support texts."""
    if options.layer is not None:
        raise ConfigError("--layer chooses the activations of an image; the model reads texts", "leave --layer out")


def _choose_method(
    subject: Subject, split: DataSplit, options: ExplainOptions, other: Subject | None
) -> MapMethod | None:
    """Return the method of the maps; None for tables. Of two models, both must support it."""
    if subject.is_table:
        if options.method != "auto" or options.layer is not None:
            raise ConfigError(
                f"--method {options.method} makes maps of images; the model reads tables", "leave --method out"
            )
        return None
    has_gradients = subject.has_gradients and (other is None or other.has_gradients)
    if not has_gradients and options.method not in ("auto", "occlusion"):
        program = subject if not subject.has_gradients or other is None else other
        raise ConfigError(
            f"--method {options.method} needs gradients, and the export {program.loaded.format} gives outputs only",
            "use --method occlusion, or explain the run",
        )
    inputs = read_inputs(subject, split, split.index[:1]).inputs
    return choose_method(options.method, subject.model, inputs, has_gradients, options.layer)


def _choose_other_method(method: MapMethod, other: Subject | None, split: DataSplit) -> MapMethod:
    """Return the method of the other model: the same one, or the one that fits its network."""
    if other is None or not method.needs_gradients or other.is_text:
        return method
    inputs = read_inputs(other, split, split.index[:1]).inputs
    return choose_method("auto", other.model, inputs, True, None)


def _estimate(work: Work) -> tuple[float, float]:
    """Return the seconds and the bytes that the work takes, from a measured call of the model."""
    subject, options = work.subject, work.options
    inputs = read_inputs(subject, work.split, work.split.index[:32]).inputs
    start = time.perf_counter()
    subject.loaded.compute_outputs(inputs)
    call_s = (time.perf_counter() - start) / len(inputs)
    images = CHECK_EXAMPLES + options.count * max(len(options.sets), 2) + len(options.files)
    calls = len(work.split) + len(work.splits["val"])
    if work.method is not None:
        calls += images * (count_calls(work.method, subject.has_gradients) + work.method.calls)
    if subject.has_gradients:
        layers = len(list_weight_layers(subject.model))
        calls += (layers + 2) * blame.EXAMPLES + 4 * similarity.EXAMPLES + embedding.POINTS + embedding.TRAINING
    weights = sum(parameter.numel() * 4 for parameter in subject.model.parameters())
    copies = 4
    if work.checkpoints:
        calls += directions.EXAMPLES * directions.count_calls(len(work.checkpoints))
        copies += len(work.checkpoints) + 2
    return 1 + calls * call_s, copies * weights + min(3 * 256 * work.activation_bytes, 3 * 2**30)


@torch.no_grad()
def _measure_activations(model: nn.Module, inputs: Tensor) -> float:
    """Return the bytes of all outputs of modules for one example."""
    sizes: list[int] = [inputs.numel()]

    def record(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    handles = [module.register_forward_hook(record) for module in model.modules()]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return 4.0 * sum(sizes)


def _get_name(path: Path) -> str:
    absolute = path.absolute()
    return f"{absolute.parent.name}/{absolute.name}"


def _list_facts(subject: Subject) -> list[str]:
    loaded = subject.loaded
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    facts = [
        "run" if loaded.format == "run" else f"export {loaded.format}",
        loaded.spec.inputs.describe(),
        loaded.spec.targets.describe(),
        f"{parameters:,} parameters" if parameters else "",
        f"on {loaded.device}",
    ]
    return [fact for fact in facts if fact]
