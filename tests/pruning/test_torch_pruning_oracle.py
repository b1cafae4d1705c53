"""The groups of channels are those that torch-pruning finds, where it is installed: pip install torch-pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from dnntrain.pruning.cut import get_tensors
from dnntrain.pruning.trace import Group, find_groups

torch_pruning: Any = pytest.importorskip("torch_pruning")

#: Networks of torchvision, and their last layer, whose outputs stay.
NETWORKS = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "squeezenet1_1": "classifier.1",
    "vgg11_bn": "classifier.6",
}

#: Layers of a group: those that lose outputs, and those that lose inputs.
Layers = tuple[frozenset[str], frozenset[str]]


def read_layers(group: Group, model: nn.Module) -> Layers:
    tensors = get_tensors(model)
    weights = [(name, axis) for name, axis in group.axes if tensors[name].ndim > 1]
    outputs, inputs = ({name.rpartition(".")[0] for name, axis in weights if axis == end} for end in (0, 1))
    return frozenset(outputs), frozenset(inputs)


def find_their_groups(model: nn.Module, images: torch.Tensor, last: str) -> set[Layers]:
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images)
    names = {module: name for name, module in model.named_modules()}
    found = set()
    for group in graph.get_all_groups(
        ignored_layers=[model.get_submodule(last)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        layers: tuple[set[str], set[str]] = (set(), set())
        for item in group:
            module, function = item.dep.target.module, item.dep.handler
            if isinstance(module, nn.Conv2d | nn.Linear):
                is_depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
                loses_inputs = "in_channels" in function.__name__ and not is_depthwise
                layers[loses_inputs].add(names[module])
        found.add((frozenset(layers[0]), frozenset(layers[1])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_groups_are_those_of_torch_pruning(name: str) -> None:
    model = torchvision.models.get_model(name, num_classes=10).eval()
    images = torch.zeros(1, 3, 64, 64)
    groups = [read_layers(group, model) for group in find_groups(model, images).groups]
    assert len(set(groups)) == len(groups)
    assert set(groups) == find_their_groups(model, images, NETWORKS[name])
