"""Attention transfer (Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import adaptive_avg_pool2d, normalize

from dnntrain.choices.distill._layer_matching import map_names, output_shapes, paired, student_of
from dnntrain.choices.distill._options import TeacherKnobs, check_weights
from dnntrain.choices.distill._teacher_runner import Tap, taught
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, Capture, Context, LossTerm, Need, Outputs, Parts


@dataclass(frozen=True, kw_only=True)
class At(TeacherKnobs):
    """task_weight * cross-entropy + weight / 2 * Σ over layers of ‖Q_S / ‖Q_S‖ - Q_T / ‖Q_T‖‖, where Q is the attention map."""

    layers: str | tuple[str, ...]  # modules of the student that give maps: names or patterns such as stages.*
    teacher_layers: str | tuple[str, ...] | None = None  # modules of the teacher, one for each; null: as layers
    weight: NonNegative = 10.0  # the paper's beta

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})

    def build(self, context: Context) -> Parts:
        check_weights(weight=self.weight)
        modules: list[str] = []

        def taps(teacher: nn.Module) -> list[Tap]:
            ours, theirs = paired(context, self.layers, teacher, self.teacher_layers)
            modules.extend(ours)
            _check_maps(theirs, output_shapes(teacher, theirs, context), "teacher")
            return [Tap(name, module, attention) for name, module in zip(map_names(ours), theirs, strict=True)]

        teacher = taught(self, context, taps=taps)
        _check_maps(modules, output_shapes(student_of(context), modules, context), "student")
        names = map_names(modules)
        captures = [Capture(name, module) for name, module in zip(names, modules, strict=True)]
        term = LossTerm("at", partial(_transfer, names), self.weight / 2)
        return teacher.parts(self.task_weight, term, captures=captures)


def _transfer(names: list[str], outputs: Outputs, batch: Batch) -> Tensor:
    terms = [attention_loss(attention(outputs.features[name].float()), batch.extras[name]) for name in names]
    return torch.stack(terms).sum(0)


def attention(features: Tensor) -> Tensor:
    """Σ over channels of the squared features: [n, channels, height, width] → [n, height, width]."""
    return features.square().sum(1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Q_S / ‖Q_S‖ - Q_T / ‖Q_T‖‖ of attention maps [n, height, width] → [n]; the larger map is averaged to the size of the smaller."""
    if student.shape[1:] != teacher.shape[1:]:
        size = (min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2]))
        student, teacher = (adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
    distance: Tensor = vector_norm(normalize(student.flatten(1)) - normalize(teacher.flatten(1)), dim=1)
    return distance


def _check_maps(modules: tuple[str, ...] | list[str], shapes: list[tuple[int, ...]], whose: str) -> None:
    for module, shape in zip(modules, shapes, strict=True):
        if len(shape) != 3:
            raise ConfigError(
                f"distill=at needs maps, and {module} of the {whose} gives {'x'.join(map(str, shape))} for an image",
                "name convolutional modules, or use distill=fitnet",
            )
