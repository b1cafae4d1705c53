"""Hints (Romero et al., "FitNets: hints for thin deep nets", ICLR 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.distill._layer_matching import build_student, compute_output_shapes, make_tap_names, pair_modules
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import TeacherTap
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.nn.init import keyed_generator
from dnntrain.protocols import Batch, BuildContext, FeatureTap, Hooks, LayoutRequirement, LossTerm, ModelOutputs


@dataclass(frozen=True, kw_only=True)
class Fitnet(TeacherOptions):
    """Match hidden features through learned regressors.

    label_loss_weight * cross-entropy + loss_weight * mean of ½ (hint - regressor(guided))² over the
    hint's values, summed over layers. The regressors are trained with the student, and are not part
    of an export. All is trained at once, not in two stages.
    """

    layers: str | tuple[str, ...]  # guided modules of the student: names or patterns such as stages.*
    teacher_layers: str | tuple[str, ...] | None = None  # hint modules of the teacher, one for each; null: as layers
    loss_weight: NonNegative = 1.0  # weight of the distillation loss

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.FEATURES})

    def build(self, context: BuildContext) -> Hooks:
        check_weights(loss_weight=self.loss_weight)
        guided: list[str] = []

        def select_taps(teacher: nn.Module) -> list[TeacherTap]:
            student_modules, hint_modules = pair_modules(context, self.layers, teacher, self.teacher_layers)
            guided.extend(student_modules)
            return [
                TeacherTap(name, hint) for name, hint in zip(make_tap_names(student_modules), hint_modules, strict=True)
            ]

        teacher = build_teacher_hooks(self, context, taps=select_taps)
        names = make_tap_names(guided)
        shapes = compute_output_shapes(build_student(context), guided, context)
        captures = []
        for name, module, shape in zip(names, guided, shapes, strict=True):
            with keyed_generator(context.seed, "distill", name):
                captures.append(FeatureTap(name, module, make_regressor(module, shape, teacher.shapes[name])))
        term = LossTerm("fitnet", partial(_compute_hint_loss, names), self.loss_weight)
        return teacher.to_hooks(self.label_loss_weight, term, captures=captures)


def _compute_hint_loss(names: list[str], outputs: ModelOutputs, batch: Batch) -> Tensor:
    hints = {name: batch.extras[name] for name in names}
    terms = [hint_loss(outputs.features[name], hint) / math.prod(hint.shape[1:]) for name, hint in hints.items()]
    return torch.stack(terms).sum(0)


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Return ½ ‖hint - guided‖² over all values of an example: two of [n, …] → [n].

    `guided` is the output of its regressor.
    """
    return 0.5 * (hint.float() - guided.float()).square().flatten(1).sum(1)


def make_regressor(module: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """Make a layer that maps outputs of the student's `module` to the hint's shape.

    Maps need a 1x1 convolution and resizing, vectors a linear layer. Raises ConfigError if no such
    layer exists: for a map and a vector, or for different numbers of tokens.
    """
    if len(student) == len(teacher) == 3:
        layers: list[nn.Module] = [nn.Conv2d(student[0], teacher[0], 1)]
        if student[1:] != teacher[1:]:
            is_larger = student[1] >= teacher[1] and student[2] >= teacher[2]
            size = (teacher[1], teacher[2])
            layers.append(nn.AdaptiveAvgPool2d(size) if is_larger else nn.Upsample(size, mode="bilinear"))
        return nn.Sequential(*layers)
    if student and len(student) == len(teacher) and student[:-1] == teacher[:-1]:
        return nn.Linear(student[-1], teacher[-1])
    student_text, teacher_text = ("x".join(map(str, shape)) for shape in (student, teacher))
    raise ConfigError(
        f"distill.layers={module} returns {student_text} for an image, which cannot be mapped to the teacher's hint of "
        f"{teacher_text}",
        "name modules that both return maps, or both return vectors",
    )
