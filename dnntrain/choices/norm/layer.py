"""Layer normalization over channels and pixels instead of batch normalization.

Ba, Kiros & Hinton, "Layer normalization", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.norm._convert import replace_batch_norms
from dnntrain.choices.norm.group import make_group_norm
from dnntrain.protocols import (
    BuildContext,
    Collectives,
    Hooks,
    LayoutRequirement,
    ModelStage,
    ModelTransform,
    NormChoice,
    SingleProcess,
)


@dataclass(frozen=True)
class Layer(NormChoice):
    """Normalize each example over all channels and pixels of a layer.

    This is group normalization with one group.
    """

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_LAYER})
    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(model_transforms=(ModelTransform(ModelStage.NORM, self.convert),))

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Replace batch by layer normalization. Raises ConfigError if `model` has none."""
        return replace_batch_norms(model, "layer", lambda layer: make_group_norm(layer, 1, 1))

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Convert a newly built `model` to the form in which this choice exports it."""
        return self.convert(model)
