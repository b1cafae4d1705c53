"""Hints (Romero et al., "FitNets: hints for thin deep nets", ICLR 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.distill._layer_matching import map_names, output_shapes, paired, student_of
from dnntrain.choices.distill._options import TeacherKnobs, check_weights
from dnntrain.choices.distill._teacher_runner import Tap, taught
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.nn.init import keyed_generator
from dnntrain.protocols import Batch, Capture, Context, LossTerm, Need, Outputs, Parts


@dataclass(frozen=True, kw_only=True)
class Fitnet(TeacherKnobs):
    """task_weight * cross-entropy + weight * mean of ½ (hint - regressor(guided))² over the hint's numbers, summed over layers.

    The regressors are learned with the student and are no part of what is exported. All is trained at once, not in two stages.
    """

    layers: str | tuple[str, ...]  # guided modules of the student: names or patterns such as stages.*
    teacher_layers: str | tuple[str, ...] | None = None  # hint modules of the teacher, one for each; null: as layers
    weight: NonNegative = 1.0  # weight of the hints

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})

    def build(self, context: Context) -> Parts:
        check_weights(weight=self.weight)
        guided: list[str] = []

        def taps(teacher: nn.Module) -> list[Tap]:
            ours, hints = paired(context, self.layers, teacher, self.teacher_layers)
            guided.extend(ours)
            return [Tap(name, hint) for name, hint in zip(map_names(ours), hints, strict=True)]

        teacher = taught(self, context, taps=taps)
        names = map_names(guided)
        shapes = output_shapes(student_of(context), guided, context)
        captures = []
        for name, module, shape in zip(names, guided, shapes, strict=True):
            with keyed_generator(context.seed, "distill", name):
                captures.append(Capture(name, module, regressor(module, shape, teacher.shapes[name])))
        term = LossTerm("fitnet", partial(_hints, names), self.weight)
        return teacher.parts(self.task_weight, term, captures=captures)


def _hints(names: list[str], outputs: Outputs, batch: Batch) -> Tensor:
    hints = {name: batch.extras[name] for name in names}
    terms = [hint_loss(outputs.features[name], hint) / math.prod(hint.shape[1:]) for name, hint in hints.items()]
    return torch.stack(terms).sum(0)


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """½ ‖hint - guided‖² over all numbers of an example: two of [n, …] → [n]. `guided` has been through its regressor."""
    return 0.5 * (hint.float() - guided.float()).square().flatten(1).sum(1)


def regressor(module: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """Outputs of a student's `module` in the shape of the hint: a 1x1 convolution and resizing for maps, else a linear layer.

    Raises ConfigError where there is no such layer: a map and a vector, or numbers of tokens that differ.
    """
    if len(student) == len(teacher) == 3:
        layers: list[nn.Module] = [nn.Conv2d(student[0], teacher[0], 1)]
        if student[1:] != teacher[1:]:
            larger = student[1] >= teacher[1] and student[2] >= teacher[2]
            size = (teacher[1], teacher[2])
            layers.append(nn.AdaptiveAvgPool2d(size) if larger else nn.Upsample(size, mode="bilinear"))
        return nn.Sequential(*layers)
    if student and len(student) == len(teacher) and student[:-1] == teacher[:-1]:
        return nn.Linear(student[-1], teacher[-1])
    ours, theirs = ("x".join(map(str, shape)) for shape in (student, teacher))
    raise ConfigError(
        f"distill.layers={module} gives {ours} for an image, the teacher's hint {theirs}: no layer makes one of the other",
        "name modules that both give maps, or both give vectors",
    )
