"""Choose the examples whose maps are shown: the worst, the most uncertain, random ones, or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnntrain.explain.option_values import EXAMPLE_SETS
from dnntrain.explain.subject import SplitOutputs, Subject, read_inputs
from dnntrain.inference.pictures import preprocess_pictures
from dnntrain.input.document_source import encode_text
from dnntrain.input.text_files import read_text_file
from dnntrain.protocols import TargetKind
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class Example:
    """An example that is shown.

    group   the set that it was chosen for, or "files"
    row     its row in the outputs of the split; None for a file
    target  its label, if it has one: a class, labels or numbers
    """

    name: str
    group: str
    row: int | None
    target: Tensor | None


def choose_rows(name: str, outputs: SplitOutputs, count: int, kind: TargetKind, key: Key) -> list[int]:
    """Return the rows of the set `name`, at most `count`.

    worst      the largest losses; of classes and labels, only wrong answers
    uncertain  the smallest distance between the two most probable classes, or of a label from its
               threshold
    random     chosen by `key`
    """
    rows = _RULES[name](outputs, kind, key)
    return [int(row) for row in rows[:count]]


def _choose_worst(outputs: SplitOutputs, kind: TargetKind, key: Key) -> Tensor:
    order = outputs.losses.argsort(descending=True, stable=True)
    if kind is TargetKind.CLASS:
        return order[(outputs.outputs.argmax(1) != outputs.targets)[order]]
    if outputs.probabilities is not None:
        return order[((outputs.probabilities >= outputs.threshold) != (outputs.targets > 0.5)).any(1)[order]]
    return order


def _choose_uncertain(outputs: SplitOutputs, kind: TargetKind, key: Key) -> Tensor:
    assert outputs.probabilities is not None
    return measure_margins(outputs.probabilities, kind, outputs.threshold).argsort(stable=True)


def measure_margins(probabilities: Tensor, kind: TargetKind, threshold: float) -> Tensor:
    """Return how sure each answer is, [n]: the margin over the second class, or a label's least distance to `threshold`."""
    if kind is TargetKind.CLASS:
        best = probabilities.topk(2, dim=1).values
        return best[:, 0] - best[:, 1]
    return (probabilities - threshold).abs().amin(1)


def _choose_random(outputs: SplitOutputs, kind: TargetKind, key: Key) -> Tensor:
    return torch.from_numpy(key.permutation(np.arange(len(outputs))))


_RULES: dict[str, Callable[[SplitOutputs, TargetKind, Key], Tensor]] = dict(
    zip(EXAMPLE_SETS, (_choose_worst, _choose_uncertain, _choose_random), strict=True)
)


def get_default_sets(kind: TargetKind) -> tuple[str, ...]:
    """Return the sets without `--examples`: numbers have no uncertainty."""
    return ("worst", "random") if kind is TargetKind.NUMBERS else ("worst", "uncertain")


def choose_examples(
    subject: Subject, outputs: SplitOutputs, names: Sequence[str], files: Sequence[Path], count: int, key: Key
) -> tuple[list[Example], Tensor]:
    """Return the examples and their inputs [n, …]."""
    kind = subject.target_kind
    source = outputs.split.parts[0][0]
    examples = [
        Example(source.describe(int(outputs.index[row])), name, row, outputs.targets[row])
        for name in names
        for row in choose_rows(name, outputs, count, kind, key.with_stream("examples"))
    ]
    rows = np.array([example.row for example in examples], dtype=np.int64)
    parts = [read_inputs(subject, outputs.split, outputs.index[rows]).inputs.cpu()] if len(rows) else []
    if files:
        parts.append(_read_texts(subject, files) if subject.is_text else preprocess_pictures(subject.loaded, files))
        examples += [Example(str(file), "files", None, None) for file in files]
    shape = subject.loaded.spec.inputs.shape
    empty = torch.empty(0, *shape, dtype=torch.long if subject.is_text else torch.float32)
    return examples, (torch.cat(parts) if parts else empty).to(subject.loaded.device)


def _read_texts(subject: Subject, files: Sequence[Path]) -> Tensor:
    """Return the tokens int64 [n, length] of files, as `dnntrain predict` reads them."""
    spec = subject.loaded.spec
    return torch.cat([torch.from_numpy(encode_text(read_text_file(file), spec, str(file))) for file in files])
