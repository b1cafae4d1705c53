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
LEAST_AGREEMENT = 0.999


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
def compare(part: str, samples: Iterable[tuple[Tensor, Tensor]], source: Runner, export: Runner) -> Parity:
    """`samples` are (images [n, c, h, w], labels [n]). Raises CheckpointError where the export's outputs are not finite."""
    error = scale = 0.0
    images = same = right = source_right = 0
    for inputs, labels in samples:
        expected, found = source(inputs).float().cpu(), export(inputs).float().cpu()
        if found.shape != expected.shape or not torch.isfinite(found).all():
            raise CheckpointError(
                f"the export gives {tuple(found.shape)}, not all finite, where its source gives {tuple(expected.shape)}",
                "use another format; please report it with `dnntrain doctor`",
            )
        error = max(error, float((expected - found).abs().max()))
        scale = max(scale, float(expected.abs().max()))
        classes, labels = found.argmax(1), labels.cpu()
        images += len(labels)
        same += int((classes == expected.argmax(1)).sum())
        right += int((classes == labels).sum())
        source_right += int((expected.argmax(1) == labels).sum())
    return Parity(part, images, error, error / max(scale, 1e-30), same / images, right / images, source_right / images)
