"""Layer normalisation over channels and pixels in the place of batch normalisation (Ba, Kiros & Hinton, 2016)."""

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
    """Each example is normalised over all channels and pixels of a layer, as group normalisation with one group does."""

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_LAYER})
    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(model_transforms=(ModelTransform(ModelStage.NORM, self.convert),))

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """`model` with layer normalisation. Raises ConfigError where it has no batch normalisation."""
        return replace_batch_norms(model, "layer", lambda layer: make_group_norm(layer, 1, 1))

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return self.convert(model)
