"""Distill by the distance of outputs (Ba & Caruana, "Do deep nets really need to be deep?", 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.kd import sum_pixels_that_count
from dnntrain.config.fields import Literal, NonNegative, Positive
from dnntrain.protocols import Batch, BuildContext, Hooks, LossTerm, ModelOutputs


@dataclass(frozen=True)
class Outputs(TeacherOptions):
    """Match the outputs of the teacher: logits of any task, or estimates of numbers.

    label_loss_weight * loss with the targets + loss_weight * distance(teacher, student), the mean over
    the outputs of an example. With the difference d of two outputs the distance is

        mse    d²
        mae    |d|
        huber  d² / 2 if |d| <= delta, else delta (|d| - delta / 2)

    Estimates are compared in deviations of the student's targets. For masks it is the mean over the
    pixels that count, for texts over the tokens. Several teachers are averaged.
    """

    distance: Literal["mse", "mae", "huber"] = "mse"  # distance of two outputs
    delta: Positive = 1.0  # difference from which the Huber distance is linear
    loss_weight: NonNegative = 1.0  # weight of the distance

    def __post_init__(self) -> None:
        if self.delta != 1.0 and self.distance != "huber":
            raise ValueError(f"delta={self.delta:g} has no effect with distance={self.distance}; use distance=huber")

    def build(self, context: BuildContext) -> Hooks:
        check_weights(loss_weight=self.loss_weight)
        teacher = build_teacher_hooks(self, context, logits=True)
        axis = context.spec.output.axis + 1  # of the values of an output

        def compute_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            target = batch.extras[LOGITS].mean(1).movedim(axis, 1)
            losses = compute_distances(outputs.outputs.movedim(axis, 1), target, self.distance, self.delta)
            return losses.mean(1) if losses.ndim == 2 else sum_pixels_that_count(losses, batch.targets)

        return teacher.to_hooks(self.label_loss_weight, LossTerm("outputs", compute_loss, self.loss_weight))


def compute_distances(student: Tensor, teacher: Tensor, distance: str, delta: float = 1.0) -> Tensor:
    """Return the mean distance of outputs [n, values] → [n], or of each pixel or token → [n, …]."""
    pair = student.float(), teacher.float()
    if distance == "huber":
        losses = huber_loss(*pair, reduction="none", delta=delta)
    else:
        losses = (mse_loss if distance == "mse" else l1_loss)(*pair, reduction="none")
    return losses.mean(1)
