"""Make the parts of an explanation, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dnntrain.explain import blame, directions, embedding, permutation, pointing, similarity
from dnntrain.explain.blame import blame_layers
from dnntrain.explain.calibration import calibrate
from dnntrain.explain.comparison import (
    Comparison,
    adapt_split,
    compare_outputs,
    convert_inputs,
    make_integer_maps,
    make_other_maps,
)
from dnntrain.explain.embedding import embed, find_feature_layer
from dnntrain.explain.examples import choose_examples, choose_rows, get_default_sets
from dnntrain.explain.label_errors import cross_fit, find_folds, judge_labels
from dnntrain.explain.layers import integer_layers, list_weight_layers, measure_layers, measure_reaches
from dnntrain.explain.maps import CHECK_EXAMPLES, judge_maps
from dnntrain.explain.permutation import measure_importance
from dnntrain.explain.similarity import Similarity, collect_grams, compare_grams
from dnntrain.explain.subject import compute_split_outputs, limit_split, read_inputs
from dnntrain.explain.work import Work
from dnntrain.input.masks import MaskSource
from dnntrain.protocols import Batch, TargetKind

#: The fewest validation examples to fit a temperature.
_MIN_FITTING = 50


def list_parts(work: Work) -> list[tuple[str, Callable[[Work], None]]]:
    """Return the title and the function of each part that the model has; on other ranks the shared one."""
    subject = work.subject
    is_class, is_text = subject.target_kind is TargetKind.CLASS, subject.is_text
    has_weights = subject.has_gradients
    if not work.share.world.is_main:
        return [("maps and their checks", _add_maps)]
    parts = [
        (work.method is not None, "maps and their checks", _add_maps),
        (
            work.method is not None and not is_text and (work.other is not None or has_weights),
            "maps of the other model",
            _add_others,
        ),
        (
            subject.target_kind is TargetKind.LABELS and not subject.is_table and not is_text,
            "pointing game",
            _add_pointing,
        ),
        (subject.is_table, "importance of the columns", _add_importance),
        (is_class, "calibration", _add_calibration),
        (is_class and not subject.predicts_tokens, "labels", _add_labels),
        (has_weights, "layers", _add_layers),
        (work.other is not None, "comparison", _add_comparison),
        (bool(work.checkpoints), "loss along the directions", _add_directions),
        (has_weights, "embedding", _add_embedding),
    ]
    return [(title, function) for is_made, title, function in parts if is_made]


def _take(work: Work, count: int, purpose: str, split_name: str | None = None) -> Batch:
    """Return a batch of at most `count` examples of a split, chosen by a key."""
    split = work.split if split_name is None else work.splits[split_name]
    chosen = limit_split(split, work.key.with_stream(f"explain.{purpose}"), count)
    return read_inputs(work.subject, chosen, chosen.index)


def _read_calibration(work: Work) -> list[Tensor]:
    """Return batches of training examples, which set the ranges of integers."""
    name = "train" if len(work.splits["train"]) else None
    return list(torch.split(_take(work, blame.CALIBRATION, "calibration", name).inputs, 64))


def _add_maps(work: Work) -> None:
    options, explanation, subject, method = work.options, work.explanation, work.subject, work.method
    assert method is not None
    outputs, kind = explanation.outputs, subject.target_kind
    sets = options.sets or (() if options.files else get_default_sets(kind))
    examples, inputs = choose_examples(subject, outputs, sets, options.files, options.count, work.key)
    rows = choose_rows("random", outputs, CHECK_EXAMPLES, kind, work.key.with_stream("explain.check"))
    sample = read_inputs(subject, work.split, outputs.index[rows]).inputs
    explanation.maps = judge_maps(subject, method, examples, inputs, sample, work.key, work.share)


def _add_others(work: Work) -> None:
    maps, method = work.explanation.maps, work.method
    assert maps is not None
    assert method is not None
    if work.other is not None:
        loaded = work.other.loaded
        inputs = convert_inputs(maps.shown.inputs, work.subject.loaded.spec.inputs, loaded.spec.inputs)
        work.explanation.others = make_other_maps(
            work.other_name, work.other_method, loaded.model, maps.shown, inputs, loaded.device
        )
    else:
        reaches = measure_reaches(work.subject.model, _read_calibration(work))
        work.explanation.others = make_integer_maps(method, work.subject, maps.shown, reaches)


def _add_pointing(work: Work) -> None:
    dataset = work.subject.loaded.config.data.build_masks()
    if dataset is None or work.method is None or not isinstance(dataset.test, MaskSource):
        return
    source = pointing.choose_source(work.split, dataset)
    assert isinstance(source, MaskSource)
    batch = _take(work, pointing.EXAMPLES, "pointing")
    masks = torch.stack([source.read_mask(int(number)) for number in batch.index]).long()
    work.explanation.pointing = pointing.play(
        work.subject, work.method, batch.inputs, masks, batch.targets.cpu(), work.key
    )
    if work.explanation.pointing is None:
        work.explanation.notes.append("no pointing game: the network sees no object in the images that have it")


def _add_importance(work: Work) -> None:
    batch = _take(work, permutation.EXAMPLES, "importance")
    work.explanation.importance = measure_importance(work.subject, batch, work.key)


def _add_calibration(work: Work) -> None:
    outputs, pair = work.explanation.outputs, None
    assert outputs.probabilities is not None
    fitting = limit_split(work.splits["val"], work.key, work.subject.max_examples)
    if len(fitting) >= _MIN_FITTING:
        values = compute_split_outputs(work.subject, fitting)
        pair = (values.outputs, values.targets)
    work.explanation.calibration = calibrate(
        work.split.name, outputs.outputs, outputs.probabilities, outputs.targets, pair
    )


def _add_labels(work: Work) -> None:
    explanation, names = work.explanation, work.subject.loaded.spec.targets.names
    runs = find_folds(explanation.path)
    if runs:
        outputs = cross_fit(runs, work.overrides, work.trust, work.say)
        explanation.labels = judge_labels(
            outputs, names, f"{len(runs)} folds: each network judges labels it did not see"
        )
        return
    source = f"the {work.split.name} split, which the network did not learn"
    if work.split.name in ("train", "all"):
        source = "labels that the network learned, so that few errors show; train with folds=5 to judge them"
    explanation.labels = judge_labels(explanation.outputs, names, source)


def _add_layers(work: Work) -> None:
    subject, explanation = work.subject, work.explanation
    batch = _take(work, _count_examples(work), "layers")
    explanation.layers = measure_layers(subject.model, subject.loaded.config.task, batch)
    calibration = _read_calibration(work)
    judged = _take(work, _count_judged(work), "blame")
    explanation.blame_together, explanation.blame = blame_layers(subject, judged, calibration)
    exact = collect_grams(subject.model, batch.inputs)
    reaches = measure_reaches(subject.model, calibration)
    with integer_layers(list_weight_layers(subject.model), reaches):
        rounded = collect_grams(subject.model, batch.inputs, [name for name in exact if name != "output"])
    if len(batch) > 3:
        explanation.integer_similarity = {
            name: similarity.compute_cka(exact[name], rounded[name]) for name in exact if name in rounded
        }


def _count_examples(work: Work) -> int:
    """Return the examples of which all activations are kept: at most 1 GiB of them."""
    return min(similarity.EXAMPLES, max(8, int(2**30 / work.activation_bytes)))


def _count_judged(work: Work) -> int:
    """Return the examples on which layers are blamed: at most 256 MiB of outputs."""
    spec = work.subject.loaded.spec
    numbers = spec.output.size * (spec.inputs.shape[0] if work.subject.predicts_tokens else 1)
    return min(blame.EXAMPLES, max(8, 2**26 // numbers))


def _add_comparison(work: Work) -> None:
    other, explanation, subject = work.other, work.explanation, work.subject
    assert other is not None
    other_split = adapt_split(work.split, other)
    values = compute_split_outputs(other, other_split, subject)
    figures = compare_outputs(subject, explanation.outputs, values)
    mine, others = explanation.outputs.outputs, values.outputs
    if subject.target_kind is TargetKind.CLASS:
        agreement = float((others.argmax(1) == mine.argmax(1)).double().mean())
    else:
        task, spec = subject.loaded.config.task, subject.loaded.spec
        agreement = float(task.agrees(others, mine, spec).double().mean())
    chosen = limit_split(work.split, work.key.with_stream("explain.layers"), _count_examples(work)).index
    grams = []
    for item, split in ((subject, work.split), (other, other_split)):
        names: list[str] | None = None if item.has_gradients else []
        grams.append(collect_grams(item.model, read_inputs(item, split, chosen).inputs, names))
    layers: Similarity = compare_grams(*grams)
    explanation.comparison = Comparison(work.other_name, figures, agreement, layers)


def _add_directions(work: Work) -> None:
    batch = _take(work, directions.EXAMPLES, "directions")
    work.explanation.directions = directions.measure_directions(work.subject, work.checkpoints, batch, work.key)


def _add_embedding(work: Work) -> None:
    layer = find_feature_layer(work.subject.model)
    maps = work.explanation.maps
    if layer is None:
        work.explanation.notes.append("no embedding: the network has no linear layer")
        return
    training = limit_split(work.splits["train"], work.key.with_stream("explain.training"), embedding.TRAINING)
    if not len(training):
        return
    examples = limit_split(work.split, work.key.with_stream("explain.points"), embedding.POINTS)
    shown, numbers = torch.empty(0), np.empty(0, dtype=np.int64)
    if maps is not None:
        index = work.explanation.outputs.index
        shown = maps.shown.inputs
        numbers = np.array([-1 if item.row is None else index[item.row] for item in maps.examples], dtype=np.int64)
    is_class = work.subject.target_kind is TargetKind.CLASS and not work.subject.predicts_tokens
    work.explanation.embedding = embed(work.subject, layer, examples, training, shown, numbers, is_class)
    work.explanation.training = training
