"""Segmentation: each pixel is of one class, and the model gives logits for each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dnntrain.choices.task._masks import (
    count_valid_pixels,
    dice_losses,
    list_class_figures,
    measure_classes,
    pixel_losses,
    sum_pixels,
)
from dnntrain.config.fields import Literal, NonNegativeInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    IGNORED,
    Batch,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputKind,
    OutputSpec,
    Predictions,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)
from dnntrain.utils.mask_picture import encode_mask_base64

if TYPE_CHECKING:
    from torch import Tensor

#: Two outputs mean the same if this share of the pixels has the same class.
_MIN_EQUAL = 0.999


@dataclass(frozen=True)
class Segmentation(Task):
    """A loss of the logits of each pixel, and metrics of pixels summed over all images.

    With p = softmax(logits) of a pixel with class y, the loss of an image is

        cross_entropy       - sum of log p_y over its pixels
        dice                pixels × (1 - mean over classes of (2 |P ∩ T| + 1) / (|P| + |T| + 1))
        cross_entropy_dice  the sum of both

    with |P| the sum of p, |T| the number of pixels of the class, |P ∩ T| the sum of p over these
    (Milletari et al., "V-Net", 2016). The loss of a step is their sum, divided by the pixels of all
    images of the step. Pixels with the value 255 of a mask count nowhere: not in the loss, not in its
    divisor, not in a metric.
    """

    metric: Literal["miou", "pixel_accuracy", "loss"] = "miou"  # default metric of the task; eval.metric follows it
    loss: Literal["cross_entropy", "dice", "cross_entropy_dice"] = "cross_entropy"  # loss
    ignore_index: NonNegativeInt | None = None  # number of a class whose pixels do not count; null: only 255

    target_kind: ClassVar[TargetKind | None] = TargetKind.MASK
    output_kind: ClassVar[OutputKind] = OutputKind.MAP
    counts_targets: ClassVar[bool] = True
    features: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.SOFTMAX_LOGITS, TaskFeature.PASTABLE_TARGETS})
    agreement: ClassVar[str] = "same class for 99.9 % of the pixels"

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.MASK:
            raise ConfigError(
                f"task=segmentation needs {TargetKind.MASK.value}; the data have {targets.kind.value}",
                "choose data with masks, such as data=segmentation_folder, or the task for these data",
            )
        classes = len(targets.names)
        if self.ignore_index is not None and self.ignore_index >= classes and self.ignore_index != IGNORED:
            raise ConfigError(
                f"task.ignore_index={self.ignore_index} must be the number of a class, 0 to {classes - 1}",
                "pixels with the value 255 never count",
            )
        return OutputSpec(targets.names, (classes, *inputs.shape[1:]), "logits")

    def get_units(self, spec: ModelSpec) -> int:
        _, height, width = spec.inputs.shape
        return height * width

    def count_targets(self, batch: Batch, spec: ModelSpec) -> Tensor:
        return count_valid_pixels(self._get_targets(batch))

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        targets, logits = self._get_targets(batch), outputs.float()
        if self.loss == "cross_entropy":
            return pixel_losses(logits, targets)
        if self.loss == "dice":
            return dice_losses(logits, targets)
        return pixel_losses(logits, targets) + dice_losses(logits, targets)

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        classes = spec.output.size if spec else 1

        def sums(outputs: Tensor, batch: Batch) -> Tensor:
            return sum_pixels(outputs.argmax(1), self._get_targets(batch), classes)

        def make(name: str) -> Metric:
            return Metric(
                name,
                higher_is_better=True,
                unit="%",
                sums=sums,
                value=lambda values: measure_classes(values)[name],
                width=3 * classes,
            )

        return make("miou"), make("pixel_accuracy")

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the class of each pixel, float [n, pixels]."""
        return outputs.argmax(1).flatten(1).float()

    def predict_batch(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each example, then the class of each pixel: float [n, 1 + pixels]."""
        import torch

        return torch.cat([self.compute_losses(outputs, batch)[:, None], self.predict(outputs)], dim=1)

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss and metrics, the figures of each class, and the examples with the most wrong pixels.

        "overlays" lists up to `max_samples` examples with the masks "truth" and "predicted" as PNG in
        base64, those with the smallest share of right pixels first.
        """
        index = predictions.index.numpy()
        targets = self._get_targets(Batch(predictions.values, predictions.targets, index, index))
        predicted = predictions.values[:, 1:].long().view(targets.shape)
        sums = sum_pixels(predicted, targets, spec.output.size)
        is_valid = targets != IGNORED
        right = ((predicted == targets) & is_valid).sum((1, 2)) / is_valid.sum((1, 2)).clamp(min=1)
        return {
            "examples": len(targets),
            "loss": float(predictions.values[:, 0].double().sum()) / max(1, int(is_valid.sum())),
            **measure_classes(sums.tolist()),
            "class_names": list(spec.targets.names),
            "pixels_by_class": list_class_figures(sums.tolist()),
            "overlays": [
                {
                    **describe(int(index[row])),
                    "pixel_accuracy": round(float(right[row]), 6),
                    "truth": encode_mask_base64(targets[row].numpy()),
                    "predicted": encode_mask_base64(predicted[row].numpy()),
                }
                for row in right.argsort()[:max_samples].tolist()
            ],
        }

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield the share of the pixels of each class, by its name."""
        import torch

        for classes in outputs.argmax(1).flatten(1).cpu():
            shares = torch.bincount(classes, minlength=spec.output.size) / len(classes)
            yield {name: round(share, 6) for name, share in zip(spec.output.names, shares.tolist(), strict=True)}

    def make_masks(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        return (outputs.argmax(1) == expected.argmax(1)).float().mean((1, 2)) >= _MIN_EQUAL

    def _get_targets(self, batch: Batch) -> Tensor:
        """Return the masks [n, height, width] with 255 for every pixel that does not count."""
        if self.ignore_index is None:
            return batch.targets
        return batch.targets.masked_fill(batch.targets == self.ignore_index, IGNORED)
