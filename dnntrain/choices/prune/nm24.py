"""2:4 sparsity (Mishra et al., "Accelerating sparse deep neural networks", 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dnntrain.choices.prune._masks import WeightMasks, check_no_average, make_mask_hooks, select_weights
from dnntrain.choices.prune._options import find_steps
from dnntrain.config.fields import Duration
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Claim, Hooks, LayoutRequirement, PruneChoice, Role, WidthMultiple
from dnntrain.utils.hardware import Hardware

#: Consecutive inputs of a group, and how many of them stay.
_GROUP, _KEPT = 4, 2


@dataclass(frozen=True)
class Nm24(PruneChoice):
    """Keep the two largest of each four consecutive inputs of an output, and train on.

    Layers whose number of inputs is not a multiple of 4 stay as they are.
    """

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    exclude: tuple[str, ...] = ()  # patterns of modules that stay as they are
    at: Duration = Duration(50, "%")  # time at which the weights are chosen

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.LAYER_WEIGHTS, "prune=nm24", "use prune=none"),)

    def notes(self, hardware: Hardware, multiple: WidthMultiple) -> tuple[str, ...]:
        if hardware.device == "cuda":
            return (
                "prune=nm24: sparse kernels of the GPU compute linear layers with such weights "
                "(torch.sparse.to_sparse_semi_structured); dnntrain's exports are dense",
            )
        return (
            f"prune=nm24 gains nothing on {hardware.device}: 2:4 kernels exist for GPUs only; prune=structured makes "
            "the network smaller",
        )

    def build(self, context: BuildContext) -> Hooks:
        assert context.build_model is not None, "the trainer gives a model to every method"
        if not mask_two_of_four(select_weights(context.build_model(), self.exclude), 0.5):
            raise ConfigError(
                "prune=nm24 finds no layer whose number of inputs is a multiple of 4",
                "exclude less, or use prune=magnitude",
            )
        steps = find_steps(self.at, self.at, 1, context, is_several=False)
        masks = WeightMasks(steps, [0.5], self.exclude, mask_two_of_four)
        return make_mask_hooks(masks)

    def check_with(self, hooks: Hooks) -> None:
        check_no_average("nm24", hooks)


def mask_two_of_four(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Return masks that keep the two largest of four inputs, at each output and place of a kernel."""
    masks: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.shape[1] % _GROUP:
            continue
        sizes = weight.detach().abs().movedim(1, -1)
        groups = sizes.reshape(*sizes.shape[:-1], -1, _GROUP)
        largest = groups.topk(_KEPT, -1).indices
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, largest, True)
        masks[name] = mask.reshape(sizes.shape).movedim(-1, 1)
    return masks
