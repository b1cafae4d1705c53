"""Distill a stronger teacher by correlations.

Source: Huang et al., "Knowledge distillation from a stronger teacher", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity, softmax

from dnntrain.choices.distill._ensemble import check_ensemble, combine_logits
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._pair_blocks import count_blocks, split_into_blocks, spread_over_examples
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.config.fields import Literal, NonNegative, Positive
from dnntrain.protocols import Batch, BuildContext, Hooks, LossTerm, ModelOutputs, TaskFeature


@dataclass(frozen=True)
class Dist(TeacherOptions):
    """Match correlations over classes and over examples.

    label_loss_weight * cross-entropy + T² (beta * inter-class + gamma * intra-class loss), each 1 -
    Pearson's correlation.

    The intra-class loss relates the examples of a pair block (`data.mix_block_size`, 8); larger
    blocks carry more information.
    """

    temperature: Positive = 1.0  # T: logits are divided by it before the softmax
    beta: NonNegative = 2.0  # weight of the correlation over classes, for each example
    gamma: NonNegative = 2.0  # weight of the correlation over examples, for each class
    ensemble: Literal["logits", "probabilities"] = "logits"  # average of several teachers

    needs: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.CLASS_LOGITS})
    example_relation: ClassVar[str] = "relates"

    def build(self, context: BuildContext) -> Hooks:
        check_weights(beta=self.beta, gamma=self.gamma)
        check_ensemble(self.ensemble, self.sources)
        teacher = build_teacher_hooks(self, context, logits=True)
        square = self.temperature**2

        def compute_probabilities(outputs: ModelOutputs, batch: Batch) -> tuple[Tensor, Tensor]:
            target = combine_logits(batch.extras[LOGITS], self.ensemble, self.temperature)
            return tuple(softmax(logits.float() / self.temperature, 1) for logits in (outputs.outputs, target))  # type: ignore[return-value]

        def inter_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            return square * inter_class_loss(*compute_probabilities(outputs, batch))

        def intra_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            count = count_blocks(batch, context)
            blocks = (split_into_blocks(rows, count, context) for rows in compute_probabilities(outputs, batch))
            return square * spread_over_examples(intra_class_loss(*blocks), outputs.outputs, context)

        terms = (LossTerm("dist_inter", inter_loss, self.beta), LossTerm("dist_intra", intra_loss, self.gamma))
        return teacher.to_hooks(self.label_loss_weight, *terms)


def inter_class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - correlation over the classes: probabilities [n, classes] → [n]."""
    return 1 - pearson_correlation(student, teacher, 1)


def intra_class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - correlation over the examples of a block, averaged over the classes.

    Shapes: [blocks, examples, classes] → [blocks].
    """
    return (1 - pearson_correlation(student, teacher, 1)).mean(1)


def pearson_correlation(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along `dim`, or 0 if one side does not vary."""
    return cosine_similarity(left - left.mean(dim, keepdim=True), right - right.mean(dim, keepdim=True), dim, eps=1e-8)
