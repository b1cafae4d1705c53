"""Compares an export with its source on real images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.export.formats import Runner

#: Least share of images for which an exact format must give the class of its source.
MIN_AGREEMENT = 0.999


@dataclass(frozen=True)
class Parity:
    """How an export and its source differ over `images` images of the part `part`.

    largest_error  of any logit; `relative_error` the same over the largest logit of the source
    agreement      share of images with the same most probable class
    accuracy, source_accuracy   shares of images with the right one
    """

    part: str
    images: int
    largest_error: float
    relative_error: float
    agreement: float
    accuracy: float
    source_accuracy: float

    @property
    def drop(self) -> float:
        """Accuracy that the export has lost, as a fraction; negative where it gained."""
        return self.source_accuracy - self.accuracy

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "drop": self.drop}

    def __str__(self) -> str:
        return (
            f"same class for {100 * self.agreement:.2f} % of {self.images} {self.part} images, "
            f"largest error {self.largest_error:.2g}, accuracy {self.accuracy:.4f} (source {self.source_accuracy:.4f})"
        )


@torch.no_grad()
def measure_parity(split: str, samples: Iterable[tuple[Tensor, Tensor]], source: Runner, export: Runner) -> Parity:
    """`samples` are (images [n, c, h, w], labels [n]). Raises CheckpointError where the export's outputs are not finite."""
    error = scale = 0.0
    images = same_class = correct = source_correct = 0
    for inputs, labels in samples:
        expected, actual = source(inputs).float().cpu(), export(inputs).float().cpu()
        if actual.shape != expected.shape or not torch.isfinite(actual).all():
            raise CheckpointError(
                f"the export gives {tuple(actual.shape)}, not all finite, where its source gives {tuple(expected.shape)}",
                "use another format; please report it with `dnntrain doctor`",
            )
        error = max(error, float((expected - actual).abs().max()))
        scale = max(scale, float(expected.abs().max()))
        classes, labels = actual.argmax(1), labels.cpu()
        images += len(labels)
        same_class += int((classes == expected.argmax(1)).sum())
        correct += int((classes == labels).sum())
        source_correct += int((expected.argmax(1) == labels).sum())
    return Parity(
        split, images, error, error / max(scale, 1e-30), same_class / images, correct / images, source_correct / images
    )
