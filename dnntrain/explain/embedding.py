"""Project the features before the last layer to a plane, and find the nearest training examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.explain.layers import list_weight_layers
from dnntrain.explain.subject import Subject
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.utils.rng import Index

#: Examples of the plane, and training examples among which neighbors are found.
POINTS = 800
TRAINING = 1500
NEIGHBORS = 5


@dataclass(frozen=True)
class Embedding:
    """The features of examples on their two principal axes.

    points      [n, 2]; their variance is `explained`, as shares of all
    agreement   share of the examples whose nearest training examples mostly have their label; None if
                targets are not classes
    neighbors   for each shown example the numbers of the nearest training examples, the nearest first
    """

    layer: str
    points: Tensor
    targets: Tensor
    explained: tuple[float, float]
    agreement: float | None
    neighbors: list[list[int]]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, without the points."""
        return {
            "layer": self.layer,
            "explained_variance": list(self.explained),
            "neighbor_agreement": self.agreement,
            "neighbors": self.neighbors,
        }


def find_feature_layer(model: nn.Module) -> str | None:
    """Return the last linear layer, whose input the features are; None without."""
    names = [name for name, layer in list_weight_layers(model).items() if isinstance(layer, nn.Linear)]
    return names[-1] if names else None


@torch.no_grad()
def compute_features(subject: Subject, layer: str, inputs: Tensor) -> Tensor:
    """Return the input [n, features] of a layer for inputs of the model; tokens are averaged."""
    features: list[Tensor] = []
    handle = subject.model.get_submodule(layer).register_forward_pre_hook(
        lambda module, arguments: features.append(arguments[0].float())
    )
    try:
        for part in torch.split(inputs, 256):
            subject.model(part)
    finally:
        handle.remove()
    return torch.cat([item if item.ndim == 2 else item.flatten(1, -2).mean(1) for item in features]).cpu()


def read_features(subject: Subject, layer: str, split: DataSplit) -> tuple[Tensor, Tensor]:
    """Return the features and the targets of every example of a split."""
    features, targets = [], []
    for batch in split.make_batches(subject.loaded, 256):
        features.append(compute_features(subject, layer, batch.inputs))
        targets.append(batch.targets.cpu())
    return torch.cat(features), torch.cat(targets)


def project_features(features: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Return the two principal components [n, 2] of features [n, f], and their shares of the variance.

    The sign of a component is the one of its largest loading, so that it is unique.
    """
    centered = features.double() - features.double().mean(0)
    _, values, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes[:2]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    points = centered @ (axes * signs).T
    if points.shape[1] < 2:
        points = torch.cat([points, torch.zeros(len(points), 2 - points.shape[1])], 1)
    shares = [*(values**2 / (values**2).sum().clamp_min(1e-300)).tolist(), 0.0, 0.0]
    return points, (shares[0], shares[1])


def find_neighbors(features: Tensor, others: Tensor, count: int = NEIGHBORS, is_same: Tensor | None = None) -> Tensor:
    """Return the rows [n, count] of `others` [m, f] that are nearest to features [n, f] by cosine.

    `is_same` bool [n, m] marks pairs of one example, which is not a neighbor of itself.
    """
    left, right = (nn.functional.normalize(item.double(), dim=1) for item in (features, others))
    similarity = left @ right.T
    if is_same is not None:
        similarity = similarity.masked_fill(is_same, -math.inf)
        count = min(count, len(others) - int(is_same.sum(1).max()) if is_same.numel() else count)
    return similarity.topk(min(count, len(others)), dim=1).indices


def match_examples(first: DataSplit, numbers: Index, second: DataSplit) -> Tensor:
    """Return bool [n, m]: whether example `numbers` [n] of `first` is the example of each row of `second`."""
    if first.parts[0][0] is not second.parts[0][0]:
        return torch.zeros(len(numbers), len(second.index), dtype=torch.bool)
    return torch.from_numpy(numbers[:, None] == second.index)


def embed(
    subject: Subject,
    layer: str,
    examples: DataSplit,
    training: DataSplit,
    shown: Tensor,
    numbers: Index,
    is_class: bool,
) -> Embedding:
    """Return the plane of `examples`, and the training examples nearest to the `shown` inputs.

    `numbers` are those of the shown inputs in the source of `examples`; -1 for a file.
    """
    features, targets = read_features(subject, layer, examples)
    others, labels = read_features(subject, layer, training)
    points, explained = project_features(features)
    agreement = None
    if is_class:
        is_same = match_examples(examples, examples.index, training)
        votes = labels[find_neighbors(features, others, is_same=is_same)].mode(1).values
        agreement = float((votes == targets).double().mean())
    near = torch.empty(0, 0)
    if len(shown):
        is_same = match_examples(examples, numbers, training)
        near = find_neighbors(compute_features(subject, layer, shown), others, is_same=is_same)
    neighbors = [[int(training.index[row]) for row in rows] for rows in near.long().tolist()]
    return Embedding(layer, points, targets, explained, agreement, neighbors)
