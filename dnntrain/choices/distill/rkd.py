"""Relational knowledge distillation (Park et al., "Relational knowledge distillation", CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize, smooth_l1_loss

from dnntrain.choices.distill._layer_matching import map_names, matching, output_shapes, student_of
from dnntrain.choices.distill._options import TeacherKnobs, check_weights
from dnntrain.choices.distill._pair_blocks import block_count, in_blocks, spread
from dnntrain.choices.distill._teacher_runner import LOGITS, Tap, taught
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, Capture, Context, LossTerm, Need, Outputs, Parts


@dataclass(frozen=True)
class Rkd(TeacherKnobs):
    """task_weight * cross-entropy + distance_weight * L_D + angle_weight * L_A: distances and angles among examples agree.

    The examples of a pair block (`data.pair_block`, 8) are related to each other; larger blocks tell more. The teacher's classes or
    features may be of any number.
    """

    distance_weight: NonNegative = 25.0  # weight of the distances between two examples
    angle_weight: NonNegative = 50.0  # weight of the angles among three examples
    layer: str | None = None  # module whose outputs are related; null: the logits
    teacher_layer: str | None = None  # the same of the teacher; null: as layer

    pairs: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES}) if self.layer is not None else frozenset()

    def build(self, context: Context) -> Parts:
        check_weights(distance_weight=self.distance_weight, angle_weight=self.angle_weight)
        if self.layer is None and self.teacher_layer is not None:
            raise ConfigError("distill.teacher_layer has no effect without distill.layer", "set both, or neither")
        teacher = taught(self, context, logits=self.layer is None, taps=self._taps, relations_only=True)
        name, captures = LOGITS, list[Capture]()
        if self.layer is not None:
            (name,) = map_names((self.layer,))
            module = _only(self.layer, student_of(context), "distill.layer")
            output_shapes(student_of(context), (module,), context)
            captures.append(Capture(name, module))

        def related(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            rows = outputs.logits if self.layer is None else outputs.features[name]
            count = block_count(batch, context)
            return rows, in_blocks(rows, count, context), in_blocks(batch.extras[name], count, context)

        def distance(outputs: Outputs, batch: Batch) -> Tensor:
            rows, ours, theirs = related(outputs, batch)
            return spread(distance_loss(ours, theirs), rows, context)

        def angle(outputs: Outputs, batch: Batch) -> Tensor:
            rows, ours, theirs = related(outputs, batch)
            return spread(angle_loss(ours, theirs), rows, context)

        terms = (
            LossTerm("rkd_distance", distance, self.distance_weight),
            LossTerm("rkd_angle", angle, self.angle_weight),
        )
        return teacher.parts(self.task_weight, *terms, captures=captures)

    def _taps(self, teacher: nn.Module) -> list[Tap]:
        if self.layer is None:
            return []
        pattern = self.layer if self.teacher_layer is None else self.teacher_layer
        return [Tap(map_names((pattern,))[0], _only(pattern, teacher, "the teacher's distill.teacher_layer"))]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of Huber(psi(t_i, t_j), psi(s_i, s_j)): [blocks, examples, numbers] → [blocks].

    psi(a, b) = ‖a - b‖ divided by the mean of that over the block's pairs; Huber's bound is 1. The paper sums over pairs.
    """
    one, other = torch.triu_indices(student.shape[1], student.shape[1], 1, device=student.device)

    def distances(rows: Tensor) -> Tensor:
        found: Tensor = vector_norm(rows[:, one] - rows[:, other], dim=2)
        return found / found.mean(1, keepdim=True).clamp_min(1e-12)

    return smooth_l1_loss(distances(student), distances(teacher), reduction="none").mean(1)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over triples of Huber(cos of the angle t_i t_j t_k, the same of s): [blocks, examples, numbers] → [blocks].

    The angle is at j, and i, j, k are three examples. The paper sums over triples.
    """
    size = student.shape[1]
    place = torch.arange(size, device=student.device)
    middle, one, other = torch.meshgrid(place, place, place, indexing="ij")
    distinct = ((middle != one) & (middle != other) & (one < other)).float()

    def cosines(rows: Tensor) -> Tensor:
        arms = normalize(rows[:, None] - rows[:, :, None], dim=3, eps=1e-12)
        return arms @ arms.transpose(2, 3)

    loss = smooth_l1_loss(cosines(student), cosines(teacher), reduction="none") * distinct
    return loss.sum((1, 2, 3)) / distinct.sum().clamp_min(1)


def _only(pattern: str, model: nn.Module, knob: str) -> str:
    found = matching(pattern, model, knob)
    if len(found) > 1:
        raise ConfigError(f"{knob}={pattern} names {len(found)} modules: {', '.join(found[:5])}", "name one of them")
    return found[0]
