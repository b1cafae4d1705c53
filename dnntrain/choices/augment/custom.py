"""Your own image transform: a function in a Python file, which is run as code.

def posterize(image, generator, bits: int = 4):
    return image >> (8 - bits) << (8 - bits)

dnntrain +augment=[custom] augment.custom.file=mine.py augment.custom.args.bits=3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dnntrain.config.fields import Arguments
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.user_code import make_result_error
from dnntrain.utils.user_objects import load_function


@dataclass(frozen=True)
class CustomAugment(AugmentChoice):
    """Change each training image by your function of (image, generator).

    The image is uint8 [channels, height, width], and so is the result. All random choices must come
    from the generator: the seed, the epoch and the example seed it, so they are the same on every layout.
    """

    file: str | None = None  # path of a Python file, which is run
    name: str | None = None  # name of the function in the file, or of a class; null: its only one
    args: Arguments = Arguments()  # further arguments of the function, as augment.custom.args.bits=3

    varies_images: ClassVar[bool] = True
    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def list_code_options(self) -> tuple[str, ...]:
        return ("file",) if self.file else ()

    def describe(self, data: DataChoice) -> str:
        return f"custom {self.name or ''}".strip()

    def build(self, context: BuildContext) -> Hooks:
        function = load_function(self.file, "augment.custom", self.name, self.args.values)
        return Hooks(image_transforms=(UserTransform(function),))


@dataclass(frozen=True)
class UserTransform:
    """The image transform of `CustomAugment`."""

    function: Callable[[Tensor, torch.Generator], Tensor]

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        seeds = key.with_stream("custom").bits(number) >> 1
        results = []
        for image, seed in zip(images, seeds.tolist(), strict=True):
            result = self.function(image.contiguous(), torch.Generator().manual_seed(seed))
            if not isinstance(result, Tensor) or result.dtype != torch.uint8 or result.shape != image.shape:
                form = (
                    f"{result.dtype} {list(result.shape)}"
                    if isinstance(result, Tensor)
                    else f"a {type(result).__name__}"
                )
                raise make_result_error(f"must return uint8 {list(image.shape)}, not {form}", self.function)
            results.append(result)
        return torch.stack(results) if results else images
