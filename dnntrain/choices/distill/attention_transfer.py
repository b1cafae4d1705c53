"""Attention transfer (Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import adaptive_avg_pool2d, normalize

from dnntrain.choices.distill._layer_matching import build_student, compute_output_shapes, make_tap_names, pair_modules
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import TeacherTap
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, BuildContext, FeatureTap, Hooks, LayoutRequirement, LossTerm, ModelOutputs


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(TeacherOptions):
    """Match attention maps of student and teacher.

    label_loss_weight * cross-entropy + loss_weight / 2 * Σ over layers of ‖Q_S / ‖Q_S‖ - Q_T /
    ‖Q_T‖‖, where Q is the attention map. The distance is the paper's (equation 2), averaged over
    examples, and so is its factor beta / 2. The paper's beta is 1000 divided by the number of values
    of a map, so it differs from layer to layer: 15.6 for a map of 8x8. The default of one beta for
    all layers is ours. (The authors' code squares the distance instead, and averages it over the
    map.)
    """

    layers: str | tuple[str, ...]  # modules of the student whose maps are compared: names or patterns such as stages.*
    teacher_layers: str | tuple[str, ...] | None = None  # modules of the teacher, one for each; null: as layers
    loss_weight: NonNegative = (
        10.0  # weight of the distillation loss, beta: 10 is ours, the paper takes 1000 / values of the map
    )

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.FEATURES})

    def build(self, context: BuildContext) -> Hooks:
        check_weights(loss_weight=self.loss_weight)
        modules: list[str] = []

        def select_taps(teacher: nn.Module) -> list[TeacherTap]:
            student_modules, teacher_modules = pair_modules(context, self.layers, teacher, self.teacher_layers)
            modules.extend(student_modules)
            _check_maps(teacher_modules, compute_output_shapes(teacher, teacher_modules, context), "teacher")
            return [
                TeacherTap(name, module, attention_map)
                for name, module in zip(make_tap_names(student_modules), teacher_modules, strict=True)
            ]

        teacher = build_teacher_hooks(self, context, taps=select_taps)
        _check_maps(modules, compute_output_shapes(build_student(context), modules, context), "student")
        names = make_tap_names(modules)
        captures = [FeatureTap(name, module) for name, module in zip(names, modules, strict=True)]
        term = LossTerm("attention_transfer", partial(_compute_transfer_loss, names), self.loss_weight / 2)
        return teacher.to_hooks(self.label_loss_weight, term, captures=captures)


def _compute_transfer_loss(names: list[str], outputs: ModelOutputs, batch: Batch) -> Tensor:
    terms = [attention_loss(attention_map(outputs.features[name].float()), batch.extras[name]) for name in names]
    return torch.stack(terms).sum(0)


def attention_map(features: Tensor) -> Tensor:
    """Sum the squared features over channels: [n, channels, height, width] → [n, height, width]."""
    return features.square().sum(1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ‖Q_S / ‖Q_S‖ - Q_T / ‖Q_T‖‖ of attention maps [n, height, width] → [n].

    The larger map is averaged to the size of the smaller.
    """
    if student.shape[1:] != teacher.shape[1:]:
        size = (min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2]))
        student, teacher = (adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
    distance: Tensor = vector_norm(normalize(student.flatten(1)) - normalize(teacher.flatten(1)), dim=1)
    return distance


def _check_maps(modules: tuple[str, ...] | list[str], shapes: list[tuple[int, ...]], owner: str) -> None:
    for module, shape in zip(modules, shapes, strict=True):
        if len(shape) != 3:
            raise ConfigError(
                f"distill=attention_transfer needs maps, but {module} of the {owner} returns "
                f"{'x'.join(map(str, shape))} for an image",
                "name convolutional modules, or use distill=fitnet",
            )
