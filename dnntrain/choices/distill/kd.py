"""Knowledge distillation (Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from dnntrain.choices.distill._ensemble import check_ensemble, combine_logits
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.config.fields import Literal, NonNegative, Positive
from dnntrain.protocols import IGNORED, Batch, BuildContext, Hooks, LossTerm, ModelOutputs, TaskFeature


@dataclass(frozen=True)
class Kd(TeacherOptions):
    """Match the softened probabilities of the teacher.

    label_loss_weight * cross-entropy + loss_weight * T² KL(teacher ‖ student), both softened by the
    temperature T. The paper's alpha is label_loss_weight=1-alpha and loss_weight=alpha. T² keeps
    the size of the gradient if T changes (section 2). For masks it is the mean over the pixels that
    count, for texts over the tokens.
    """

    temperature: Positive = 4.0  # T: logits are divided by it before the softmax
    loss_weight: NonNegative = 1.0  # weight of the distillation loss
    ensemble: Literal["logits", "probabilities"] = "logits"  # average of several teachers

    needs: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.SOFTMAX_LOGITS})

    def build(self, context: BuildContext) -> Hooks:
        check_weights(loss_weight=self.loss_weight)
        check_ensemble(self.ensemble, self.sources)
        teacher = build_teacher_hooks(self, context, logits=True)
        axis = context.spec.output.axis + 1  # of the classes, or of the tokens

        def compute_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            logits = batch.extras[LOGITS].movedim(axis + 1, 2)
            target = combine_logits(logits, self.ensemble, self.temperature)
            losses = kd_loss(outputs.outputs.movedim(axis, 1), target, self.temperature)
            return losses.mean(1) if losses.ndim == 2 else sum_pixels_that_count(losses, batch.targets)

        return teacher.to_hooks(self.label_loss_weight, LossTerm("kd", compute_loss, self.loss_weight))


def sum_pixels_that_count(losses: Tensor, targets: Tensor) -> Tensor:
    """Return losses [n] as they are; of losses [n, height, width] the sum over the pixels that count / all pixels.

    The objective multiplies by all pixels, and divides by those that count (see `Task.get_units`).
    """
    if losses.ndim == 1:
        return losses
    return (losses * (targets != IGNORED)).mean((1, 2))


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² Σ_c p_c log(p_c / q_c): logits [n, classes] → [n], or of each pixel → [n, height, width].

    p, q = softmax(teacher / T), softmax(student / T).
    """
    log_p = log_softmax(teacher.float() / temperature, 1)
    log_q = log_softmax(student.float() / temperature, 1)
    return temperature**2 * kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
