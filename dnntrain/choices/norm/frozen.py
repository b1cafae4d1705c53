"""Batch normalization with fixed statistics, for fine-tuning and for very small batches.

He et al., "Mask R-CNN", 2017.
"""

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
    """Use the running statistics of the initial model in training too; never change them."""

    affine: bool = False  # true: train weight and bias; false: keep them as they are

    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(
            model_transforms=(ModelTransform(ModelStage.NORM, self.convert),), export_transforms=(restore_batch_norms,)
        )

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Fix the batch normalization of `model`. Raises ConfigError if it has none."""
        for layer in find_batch_norms(model, "frozen").values():
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(self.affine and parameter.requires_grad)
        return change_layer_class(model, "frozen", FrozenNorm)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return the notes of the plan."""
        return ("norm=frozen keeps the initial statistics: 0 and 1, unless the weights come from a trained model",)


class FrozenNorm(BatchNormVariant):
    """Batch normalization that never uses the statistics of the batch."""

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
