"""Batch normalisation with fixed statistics: for fine-tuning, and for batches too small to have any (He et al., "Mask R-CNN", 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dnntrain.choices.norm._convert import BatchStatistics, NormFacts, batch_norms, restated, restored
from dnntrain.protocols import Alone, Collectives, Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class Frozen:
    """The running statistics that the model starts with are used in training too and never change."""

    affine: bool = False  # true: weight and bias are trained; false: they stay as they are

    needs: ClassVar[frozenset[Need]] = frozenset()
    batch_statistics: ClassVar[bool] = False

    def build(self, context: Context) -> Parts:
        return Parts(model=(ModelTransform(ModelStage.NORM, self.converted),), export=(restored,))

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        """`model` with its batch normalisation fixed. Raises ConfigError where it has none."""
        for layer in batch_norms(model, "frozen").values():
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(self.affine and parameter.requires_grad)
        return restated(model, "frozen", FrozenNorm)

    def exported(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return (
            "norm=frozen keeps the statistics of the first weights: 0 and 1, unless those come from a trained model",
        )


class FrozenNorm(BatchStatistics):
    """Batch normalisation that never looks at the batch."""

    def normalised(self, inputs: Tensor) -> Tensor:
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
