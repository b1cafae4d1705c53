"""Unstructured pruning by magnitude (Han et al., 2015; Zhu & Gupta, 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dnntrain.choices.prune._masks import WeightMasks, check_no_average, make_mask_hooks, select_weights
from dnntrain.choices.prune._options import find_steps, list_ratios
from dnntrain.config.fields import Annotated, Duration, Literal, PositiveInt, Range
from dnntrain.protocols import BuildContext, Claim, Hooks, LayoutRequirement, PruneChoice, Role, WidthMultiple
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Magnitude(PruneChoice):
    """Set the weights with the smallest magnitude to zero, wherever they are, and train on.

    The network keeps its shape. No kernel of dnntrain's exports computes faster with such zeros;
    a compressed file is smaller.
    """

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    ratio: Annotated[float, Range(above=0, below=1)] = 0.8  # share of the weights that become zero
    scope: Literal["local", "global"] = "global"  # weights that compete: of each layer, or of all layers
    exclude: tuple[str, ...] = ()  # patterns of modules that stay as they are
    schedule: Literal["one_shot", "iterative", "gradual"] = (
        "gradual"  # once; several times, the same share of the rest each; several times, most of them early
    )
    at: Duration = Duration(25, "%")  # time of the first pruning
    until: Duration = Duration(75, "%")  # time of the last one of several
    cuts: PositiveInt = 8  # prunings of the schedules iterative and gradual

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.LAYER_WEIGHTS, "prune=magnitude", "use prune=none"),)

    def notes(self, hardware: Hardware, multiple: WidthMultiple) -> tuple[str, ...]:
        return (
            "prune=magnitude makes nothing faster: dense kernels multiply the zeros too; prune=structured does, "
            "because it removes channels",
        )

    def build(self, context: BuildContext) -> Hooks:
        assert context.build_model is not None, "the trainer gives a model to every method"
        select_weights(context.build_model(), self.exclude)
        steps = find_steps(self.at, self.until, self.cuts, context, self.schedule != "one_shot")
        ratios = list_ratios(self.ratio, len(steps), self.schedule == "gradual")
        make = mask_all if self.scope == "global" else mask_each
        masks = WeightMasks(steps, ratios, self.exclude, make)
        return make_mask_hooks(masks)

    def check_with(self, hooks: Hooks) -> None:
        check_no_average("magnitude", hooks)


def mask_all(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Return masks that remove the share `ratio` of the smallest weights of all layers."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    threshold = _find_threshold(sizes, ratio)
    return {name: weight.detach().abs() > threshold for name, weight in weights.items()}


def mask_each(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Return masks that remove the share `ratio` of the smallest weights of each layer."""
    return {
        name: weight.detach().abs() > _find_threshold(weight.detach().abs().flatten(), ratio)
        for name, weight in weights.items()
    }


def _find_threshold(sizes: Tensor, ratio: float) -> Tensor:
    """Return the largest magnitude that is removed; -1 if none is."""
    removed = round(ratio * len(sizes))
    return sizes.kthvalue(removed).values if removed else sizes.new_tensor(-1.0)
