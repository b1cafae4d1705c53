"""Decoupled knowledge distillation (Zhao et al., "Decoupled knowledge distillation", CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from dnntrain.choices.distill._ensemble import check_ensemble, combine_logits
from dnntrain.choices.distill._options import TeacherOptions, check_weights
from dnntrain.choices.distill._teacher_hooks import build_teacher_hooks
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.config.fields import Literal, NonNegative, Positive
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, BatchStage, BuildContext, Hooks, LossTerm, ModelOutputs, ModelSpec, TaskFeature

#: Largest number of classes for which the plan advises a smaller beta than the default.
_FEW_CLASSES = 20


@dataclass(frozen=True)
class Dkd(TeacherOptions):
    """Distill the target class and the other classes separately.

    label_loss_weight * cross-entropy + T² (alpha * target-class part + beta * part of the other
    classes). The authors' code also raises the weight of the second term from 0 to 1 over the first
    20 epochs; here it is constant.
    """

    temperature: Positive = 4.0  # T: logits are divided by it before the softmax
    alpha: NonNegative = 1.0  # weight of the target class against all others
    beta: NonNegative = 8.0  # weight of the other classes among themselves; 2 to 8 in the paper on CIFAR-100
    ensemble: Literal["logits", "probabilities"] = "logits"  # average of several teachers

    needs: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.CLASS_LOGITS})

    def build(self, context: BuildContext) -> Hooks:
        check_weights(alpha=self.alpha, beta=self.beta)
        check_ensemble(self.ensemble, self.sources)
        teacher = build_teacher_hooks(self, context, logits=True)

        def compute_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            target = combine_logits(batch.extras[LOGITS], self.ensemble, self.temperature)
            return dkd_loss(outputs.outputs, target, batch.targets, self.temperature, self.alpha, self.beta)

        return teacher.to_hooks(self.label_loss_weight, LossTerm("dkd", compute_loss))

    def notes(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return a note for the plan: a large beta hurts with few classes (docs/benchmarks.md)."""
        num_classes = spec.output.size
        if num_classes > _FEW_CLASSES or self.beta < Dkd.beta:
            return ()
        return (f"distill.beta={self.beta:g} is for many classes; with {num_classes} classes, try distill.beta=1",)

    def check_with(self, hooks: Hooks) -> None:
        """Reject targets that are shared among classes, after the checks of every teacher."""
        super().check_with(hooks)
        if any(transform.stage in (BatchStage.MIX, BatchStage.TARGET) for transform in hooks.batch_transforms):
            raise ConfigError(
                "distill=dkd separates the target class from the others, but mixed examples have several",
                "use distill=kd, or leave the mixing method out of augment",
            )


def dkd_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Return T² (alpha KL(b_t ‖ b_s) + beta KL(p̂_t ‖ p̂_s)).

    Shapes: logits [n, classes] and class indices [n] → [n]. b holds the probabilities of the target
    class and of all other classes together; p̂ is the softmax over the classes other than the
    target.
    """
    log_q, rest_q, hat_q = _decouple_probabilities(student.float() / temperature, targets)
    log_p, rest_p, hat_p = _decouple_probabilities(teacher.float() / temperature, targets)
    target_loss = log_p.exp() * (log_p - log_q) + rest_p.exp() * (rest_p - rest_q)
    other_loss = (hat_p.exp() * (hat_p - hat_q)).sum(1)
    return temperature**2 * (alpha * target_loss + beta * other_loss)


def _decouple_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logarithms of the decoupled probabilities.

    They are: probability of the target [n], of all others [n], and softmax among the others [n,
    classes - 1].
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = others + (others >= targets[:, None])
    log_p = log_softmax(logits, 1)
    return (
        log_p.gather(1, targets[:, None])[:, 0],
        log_p.gather(1, others).logsumexp(1),
        log_softmax(logits.gather(1, others), 1),
    )
