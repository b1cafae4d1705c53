"""Distill from the running average of the student's own weights.

Source: Tarvainen & Valpola, "Mean teachers are better role models", 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dnntrain.choices.average.ema import compute_decay
from dnntrain.choices.distill._options import check_weights
from dnntrain.choices.distill._teacher_runner import check_precision, teacher_autocast
from dnntrain.choices.distill.kd import kd_loss
from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive
from dnntrain.nn.cost import estimate_forward_bytes
from dnntrain.nn.placeholder_rows import fill_empty
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    Batch,
    BuildContext,
    DistillChoice,
    Hooks,
    LayoutRequirement,
    LossTerm,
    MemoryUse,
    ModelOutputs,
    StepInfo,
    TaskFeature,
    TrainerHandles,
)


@dataclass(frozen=True)
class MeanTeacher(DistillChoice):
    """Match the logits of the running average of the weights.

    label_loss_weight * cross-entropy + loss_weight * T² KL(average ‖ student). After each step,
    average = decay * average + (1 - decay) * weights. The average computes in eval mode on the same
    inputs as the student, and is saved with the run. The loss is that of `distill=kd`; the paper
    takes the squared distance of probabilities, with a weight that grows over the first epochs, and
    inputs with other noise.
    """

    label_loss_weight: NonNegative = 1.0  # weight of the loss with the targets
    temperature: Positive = 4.0  # T: logits are divided by it before the softmax
    loss_weight: NonNegative = 1.0  # weight of the average's loss
    decay: Fraction = 0.999  # fraction of the old average kept per step
    decay_warmup: bool = (
        True  # true: limit the decay at update t to (1 + t) / (10 + t), so that early weights fade soon
    )
    teacher_precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # number format of the average's layers

    needs: ClassVar[frozenset[LayoutRequirement | TaskFeature]] = frozenset(
        {LayoutRequirement.WHOLE_MODEL, TaskFeature.CLASS_LOGITS}
    )

    def build(self, context: BuildContext) -> Hooks:
        check_weights(loss_weight=self.loss_weight)
        check_precision(self.teacher_precision, context.device)
        teacher = EmaTeacher(self.decay, self.decay_warmup, self.teacher_precision)

        def compute_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
            return kd_loss(outputs.outputs, teacher.compute_logits(batch.inputs), self.temperature)

        return Hooks(
            loss_terms=(LossTerm("mean_teacher", compute_loss, self.loss_weight),),
            after_step_hooks=(teacher,),
            state={"self_teacher": teacher},
            main_loss_weight=self.label_loss_weight,
            bindings=(teacher.bind,),
            memory_use=(partial(self._estimate_memory, context),),
        )

    def _estimate_memory(self, context: BuildContext, ranks: int) -> MemoryUse:
        """Estimate the average's weights and its forward pass of a micro-batch."""
        assert context.build_model is not None
        model = context.build_model()
        bytes_per_number = 4 if self.teacher_precision == "fp32" else 2
        forward_size = estimate_forward_bytes(model, ModelShape.from_spec(context.spec), bytes_per_number)
        weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        return MemoryUse(weights, int(context.micro_batch_size * forward_size))


class EmaTeacher:
    """A frozen copy of the model with the running average of parameters and buffers."""

    def __init__(self, decay: float, warmup: bool, precision: str) -> None:
        self._decay, self._warmup, self._precision = decay, warmup, precision
        self._updates = 0
        self._model: nn.Module = nn.Identity()
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def bind(self, handles: TrainerHandles) -> None:
        self._model = copy.deepcopy(handles.model).eval().requires_grad_(False)
        live = {name: tensor.detach() for name, tensor in handles.model.state_dict(keep_vars=True).items()}
        self._pairs = [(tensor, live[name]) for name, tensor in self._model.state_dict().items()]

    @torch.no_grad()
    def compute_logits(self, inputs: Tensor) -> Tensor:
        """Return the average's logits [n, classes], float32."""
        with teacher_autocast(self._precision, inputs.device.type):
            outputs: Tensor = self._model(fill_empty(inputs))
        return outputs[: len(inputs)].float()

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(compute_decay(self._updates, self._decay, 1, self._warmup))  # type: ignore[no-untyped-call]
        average([pair[0] for pair in floats], [pair[1] for pair in floats], None)
        for average_tensor, live in self._pairs:
            if not average_tensor.is_floating_point():
                average_tensor.copy_(live)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "model": dict(self._model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])
        self._model.load_state_dict(dict(state["model"]), strict=True)
