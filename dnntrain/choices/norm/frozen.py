"""Batch normalisation with fixed statistics: for fine-tuning, and for batches too small to have any (He et al., "Mask R-CNN", 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dnntrain.choices.norm._convert import (
    BatchNormVariant,
    change_layer_class,
    find_batch_norms,
    restore_batch_norms,
)
from dnntrain.protocols import (
    BuildContext,
    Collectives,
    Hooks,
    ModelStage,
    ModelTransform,
    NormChoice,
    NormFacts,
    SingleProcess,
)


@dataclass(frozen=True)
class Frozen(NormChoice):
    """The running statistics that the model starts with are used in training too and never change."""

    affine: bool = False  # true: train weight and bias; false: keep them as they are

    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(
            model_transforms=(ModelTransform(ModelStage.NORM, self.convert),), export_transforms=(restore_batch_norms,)
        )

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """`model` with its batch normalisation fixed. Raises ConfigError where it has none."""
        for layer in find_batch_norms(model, "frozen").values():
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(self.affine and parameter.requires_grad)
        return change_layer_class(model, "frozen", FrozenNorm)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return (
            "norm=frozen keeps the statistics of the first weights: 0 and 1, unless those come from a trained model",
        )


class FrozenNorm(BatchNormVariant):
    """Batch normalisation that never looks at the batch."""

    def normalize(self, inputs: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            inputs,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.running_mean is None,
            0.0,
            self.eps,
        )
