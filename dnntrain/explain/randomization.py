"""Check whether maps depend on the weights: randomize the network from its last layer to its first.

A map that survives shows the image, not the model (Adebayo et al., "Sanity checks for saliency maps",
NeurIPS 2018). Beside the rank correlation with the maps of the trained network, the entropy of the
maps is measured, which should rise (Hedström et al., "Sanity checks revisited", arXiv 2405.02383).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim, MapMethod
from dnntrain.explain.statistics import compute_entropy, correlate_ranks
from dnntrain.utils.rng import Key

#: Stages in which the layers are randomized.
STAGES = 5


@dataclass(frozen=True)
class Randomization:
    """The maps after each stage.

    layers        the first layer that is random in each stage
    correlations  [stages, n] with the maps of the trained network
    entropies     [stages + 1, n]; the first row belongs to the trained network
    """

    layers: tuple[str, ...]
    correlations: Tensor
    entropies: Tensor

    @property
    def entropy_rises(self) -> Tensor:
        """Entropy of the random network's maps over the trained network's, [n]."""
        return (self.entropies[-1] + 1e-9) / (self.entropies[0] + 1e-9)


def measure_randomization(
    method: MapMethod, model: nn.Module, inputs: Tensor, maps: Tensor, aim: Aim, key: Key
) -> Randomization:
    """Return how the maps change while the layers of a copy of `model` are randomized, from the last one on."""
    network = copy.deepcopy(model).eval()
    correlations, entropies, first_layers = [], [compute_entropy(maps)], []
    for layer in randomize_in_stages(network, key):
        random_maps = torch.nan_to_num(method.compute_maps(network, inputs, aim))
        correlations.append(correlate_ranks(maps, random_maps))
        entropies.append(compute_entropy(random_maps))
        first_layers.append(layer)
    return Randomization(tuple(first_layers), torch.stack(correlations).cpu(), torch.stack(entropies).cpu())


def randomize_in_stages(network: nn.Module, key: Key) -> Iterator[str]:
    """Shuffle the weights from the last layer to the first; yield the first layer that is random after each stage."""
    layers = [name for name, module in network.named_modules() if any(True for _ in module.parameters(False))]
    for part in np.array_split(np.arange(len(layers))[::-1], min(STAGES, len(layers))):
        for number in part.tolist():
            shuffle_layer(network.get_submodule(layers[number]), layers[number], key)
        yield layers[int(part[-1])]


@torch.no_grad()
def shuffle_layer(layer: nn.Module, name: str, key: Key) -> None:
    """Shuffle the numbers of each of the layer's own parameters, keyed by its name, so that their scale stays."""
    for parameter_name, parameter in layer.named_parameters(recurse=False):
        order = key.with_stream(f"{key.stream}/{name}.{parameter_name}").permutation(np.arange(parameter.numel()))
        shuffled = parameter.detach().flatten()[torch.from_numpy(order).to(parameter.device)]
        parameter.copy_(shuffled.view_as(parameter))
