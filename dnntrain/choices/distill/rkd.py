"""Relational knowledge distillation (Park et al., "Relational knowledge distillation", CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize, smooth_l1_loss

from dnntrain.choices.distill._layer_matching import build_student, compute_output_shapes, make_tap_names, match_modules
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._pair_blocks import count_blocks, split_into_blocks, spread_over_examples
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import LOGITS, TeacherTap
from dnntrain.config.fields import NonNegative
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, BuildContext, FeatureTap, Hooks, LayoutRequirement, LossTerm, ModelOutputs


@dataclass(frozen=True)
class Rkd(TeacherOptions):
    """Match distances and angles among examples.

    label_loss_weight * cross-entropy + distance_loss_weight * L_D + angle_loss_weight * L_A. The n
    examples of a pair block (`data.mix_block_size`, 8) are related to each other; larger blocks
    carry more information. As in the authors' code (lenscloth/RKD), L_D is the sum over all pairs
    divided by n², and L_A the sum over all triples divided by n³: an example with itself adds 0.
    The teacher may have any number of classes or features.
    """

    distance_loss_weight: NonNegative = 25.0  # weight of the distances between two examples: the authors' value
    angle_loss_weight: NonNegative = 50.0  # weight of the angles between three examples: the authors' value
    layer: str | None = None  # module whose outputs are related; null: the outputs
    teacher_layer: str | None = None  # the same module of the teacher; null: as layer

    example_relation: ClassVar[str] = "relates"

    @property
    def needs(self) -> frozenset[LayoutRequirement]:
        return frozenset({LayoutRequirement.FEATURES}) if self.layer is not None else frozenset()

    def build(self, context: BuildContext) -> Hooks:
        check_weights(distance_loss_weight=self.distance_loss_weight, angle_loss_weight=self.angle_loss_weight)
        if self.layer is None and self.teacher_layer is not None:
            raise ConfigError("distill.teacher_layer has no effect without distill.layer", "set both, or neither")
        teacher = build_teacher_hooks(
            self, context, logits=self.layer is None, taps=self._select_taps, relations_only=True
        )
        name, captures = LOGITS, list[FeatureTap]()
        if self.layer is not None:
            (name,) = make_tap_names((self.layer,))
            module = _match_single(self.layer, build_student(context), "distill.layer")
            compute_output_shapes(build_student(context), (module,), context)
            captures.append(FeatureTap(name, module))

        def get_block_rows(outputs: ModelOutputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            rows = outputs.outputs if self.layer is None else outputs.features[name]
            count = count_blocks(batch, context)
            return rows, split_into_blocks(rows, count, context), split_into_blocks(batch.extras[name], count, context)

        def compute_distance_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            rows, student_blocks, teacher_blocks = get_block_rows(outputs, batch)
            return spread_over_examples(distance_loss(student_blocks, teacher_blocks), rows, context)

        def compute_angle_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            rows, student_blocks, teacher_blocks = get_block_rows(outputs, batch)
            return spread_over_examples(angle_loss(student_blocks, teacher_blocks), rows, context)

        pair_fraction, triple_fraction = compute_distinct_fractions(context.pair_block)
        terms = (
            LossTerm("rkd_distance", compute_distance_loss, self.distance_loss_weight * pair_fraction),
            LossTerm("rkd_angle", compute_angle_loss, self.angle_loss_weight * triple_fraction),
        )
        return teacher.to_hooks(self.label_loss_weight, *terms, captures=captures)

    def _select_taps(self, teacher: nn.Module) -> list[TeacherTap]:
        if self.layer is None:
            return []
        pattern = self.layer if self.teacher_layer is None else self.teacher_layer
        return [
            TeacherTap(
                make_tap_names((pattern,))[0], _match_single(pattern, teacher, "the teacher's distill.teacher_layer")
            )
        ]


def compute_distinct_fractions(size: int) -> tuple[float, float]:
    """Return the fractions of distinct examples among all size² pairs and all size³ triples.

    They turn a mean over distinct examples into the mean of the authors' code.
    """
    return (size - 1) / size, (size - 1) * (size - 2) / size**2


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over pairs of Huber(psi(t_i, t_j), psi(s_i, s_j)).

    Shapes: [blocks, examples, values] → [blocks]. psi(a, b) = ‖a - b‖ divided by the mean distance
    of the block's pairs; Huber's bound is 1. Pairs are of two distinct examples.
    """
    first, second = torch.triu_indices(student.shape[1], student.shape[1], 1, device=student.device)

    def compute_distances(rows: Tensor) -> Tensor:
        lengths: Tensor = vector_norm(rows[:, first] - rows[:, second], dim=2)
        return lengths / lengths.mean(1, keepdim=True).clamp_min(1e-12)

    return smooth_l1_loss(compute_distances(student), compute_distances(teacher), reduction="none").mean(1)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over triples of the Huber loss of angle cosines.

    Huber(cosine of t_i t_j t_k, cosine of s_i s_j s_k): [blocks, examples, values] → [blocks]. The
    angle is at j; i, j and k are three distinct examples.
    """
    size = student.shape[1]
    indices = torch.arange(size, device=student.device)
    middle, first, second = torch.meshgrid(indices, indices, indices, indexing="ij")
    distinct = ((middle != first) & (middle != second) & (first < second)).float()

    def compute_cosines(rows: Tensor) -> Tensor:
        arms = normalize(rows[:, None] - rows[:, :, None], dim=3, eps=1e-12)
        return arms @ arms.transpose(2, 3)

    loss = smooth_l1_loss(compute_cosines(student), compute_cosines(teacher), reduction="none") * distinct
    return loss.sum((1, 2, 3)) / distinct.sum().clamp_min(1)


def _match_single(pattern: str, model: nn.Module, option: str) -> str:
    names = match_modules(pattern, model, option)
    if len(names) > 1:
        raise ConfigError(
            f"{option}={pattern} must match one module, not {len(names)}: {', '.join(names[:5])}", "name one of them"
        )
    return names[0]
