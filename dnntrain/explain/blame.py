"""Blame layers: compute one layer alone in 8-bit integers, and measure how the loss rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dnntrain.explain.layers import integer_layers, list_weight_layers, measure_reaches
from dnntrain.explain.statistics import Interval, compute_interval
from dnntrain.explain.subject import Subject
from dnntrain.protocols import Batch, TargetKind

#: Examples on which layers are blamed, and examples that calibrate the ranges.
EXAMPLES = 512
CALIBRATION = 256


@dataclass(frozen=True)
class Blame:
    """What integers in one layer, or in all, do to the answers.

    rise     of the loss of an example, with its interval over examples
    drop     of the accuracy; None if answers are not classes
    changed  share of the examples whose answer is another one

    The loss and the answers of a language model are those of a token.
    """

    name: str
    rise: Interval
    drop: Interval | None
    changed: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        drop = None if self.drop is None else self.drop.as_json()
        return {"layer": self.name, "loss_rise": self.rise.as_json(), "accuracy_drop": drop, "changed": self.changed}

    @property
    def is_guilty(self) -> bool:
        """Whether the loss certainly rises, and by more than a hundredth."""
        return self.rise.low > 0 and self.rise.mean > 0.01


def blame_layers(subject: Subject, batch: Batch, calibration: Sequence[Tensor]) -> tuple[Blame, list[Blame]]:
    """Return the blame of all layers together, and of each layer alone, the largest rise of the loss first."""
    model, layers = subject.model, list_weight_layers(subject.model)
    reaches = measure_reaches(model, calibration)
    exact = _Answers(subject, batch)
    with integer_layers(layers, reaches):
        together = exact.compare("all layers", _Answers(subject, batch))
    blames = []
    for name in reaches:
        with integer_layers({name: layers[name]}, reaches):
            blames.append(exact.compare(name, _Answers(subject, batch)))
    return together, sorted(blames, key=lambda blame: -blame.rise.mean)


def _agree_on_tokens(outputs: Tensor, expected: Tensor) -> Tensor:
    """Return for each text the share of its tokens after which both expect the same token, [n]."""
    return (outputs.argmax(2) == expected.argmax(2)).double().mean(1)


class _Answers:
    """The losses and the answers for a batch."""

    def __init__(self, subject: Subject, batch: Batch) -> None:
        with torch.no_grad():
            self.outputs = torch.cat([subject.model(part) for part in torch.split(batch.inputs, 256)]).float()
        task, spec = subject.loaded.config.task, subject.loaded.spec
        self.losses = task.compute_losses(self.outputs, batch).double().cpu() / task.get_units(spec)
        self.agrees = _agree_on_tokens if subject.predicts_tokens else partial(task.agrees, spec=spec)
        is_class = subject.target_kind is TargetKind.CLASS
        right = (self.outputs.argmax(-1) == batch.targets).double().cpu() if is_class else None
        self.right = right.mean(1) if right is not None and right.ndim == 2 else right

    def compare(self, name: str, other: _Answers) -> Blame:
        """Return the blame for the difference of `other`, example by example."""
        drop = None
        if self.right is not None and other.right is not None:
            drop = compute_interval(self.right - other.right)
        changed = 1 - float(self.agrees(other.outputs, self.outputs).double().mean())
        return Blame(name, compute_interval(other.losses - self.losses), drop, changed)
