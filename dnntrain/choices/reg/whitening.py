"""Whitening first convolution: its filters decorrelate the pixels of the training images.

Page, "How to train your ResNet", 2018; Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
2024, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.config.fields import Positive
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, DataFeature, Hooks, RegChoice
from dnntrain.utils.rng import derive_seed


@dataclass(frozen=True)
class Whitening(RegChoice):
    """Set the filters of the first convolution to whiten patches of training images.

    Filters are the eigenvectors of the covariance of image patches, over the roots of their
    eigenvalues, with both signs. Further output channels are random mixtures of them. A frozen
    layer needs no gradient, which saves the backward pass through it.
    """

    eps: Positive = 0.1  # added to the eigenvalues, so that noise is not amplified
    freeze: bool = True  # true: keep the filters fixed; false: only initialize them

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def build(self, context: BuildContext) -> Hooks:
        if context.build_model is not None:
            find_first_convolution(context.build_model())

        def whiten(model: nn.Module, images: Tensor) -> None:
            convolution = find_first_convolution(model)
            height, width = convolution.kernel_size
            filters = compute_whitening_filters(extract_patches(images, height, width), self.eps)
            with torch.no_grad():
                convolution.weight.copy_(
                    extend_filters(filters, convolution.out_channels, context.seed).view_as(convolution.weight)
                )
                if convolution.bias is not None:
                    convolution.bias.zero_()
            convolution.requires_grad_(not self.freeze)

        return Hooks(weight_inits=(whiten,))


def find_first_convolution(model: nn.Module) -> nn.Conv2d:
    """Return the layer that is whitened. Raises ConfigError if the model has none."""
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        raise ConfigError(
            "reg.whitening needs a model that begins with a convolution",
            "leave reg.whitening out, or choose another network: model=small_cnn, model=resnet_cifar",
        )
    return convolution


def extract_patches(images: Tensor, height: int, width: int) -> Tensor:
    """Return every seventh patch of `images` [n, c, h, w] as rows [m, c * height * width]."""
    return (
        functional.unfold(images, (height, width))[:, :, ::7]
        .transpose(1, 2)
        .reshape(-1, images.shape[1] * height * width)
    )


def compute_whitening_filters(rows: Tensor, epsilon: float) -> Tensor:
    """Return filters W [k, k] with cov(rows @ W.T) = diag(e / (e + epsilon)).

    e are the eigenvalues of the patches' second moment.
    """
    values, vectors = torch.linalg.eigh(rows.double().T @ rows.double() / len(rows))
    filters: Tensor = (vectors / torch.sqrt(values.clamp_min(0) + epsilon)).T
    return filters.float()


def extend_filters(filters: Tensor, channels: int, seed: int) -> Tensor:
    """Extend `filters` [k, k] to `channels` filters.

    The result holds the filters, largest eigenvalue first, their negatives, then keyed random
    mixtures of norm 1.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "whitening"))
    mixtures = functional.normalize(torch.randn(channels, len(filters), generator=generator), dim=1)
    sorted_filters = filters.flip(0)
    return torch.cat([sorted_filters, -sorted_filters, mixtures @ filters])[:channels]
