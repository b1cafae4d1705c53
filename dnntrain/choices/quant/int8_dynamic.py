"""8-bit integers for weights, and for activations with a range that is found anew for each batch."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Literal, PositiveInt, Probability
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8Dynamic(PostTraining):
    """As `int8_static`, but each activation's scale is of the values at hand: no calibration, at some cost in time.

    It pays for large linear layers. Inductor quantises linear layers only, so convolutional networks go to ONNX Runtime.
    """

    backend: Literal["auto", "inductor", "onnxruntime"] = (
        "auto"  # runtime of the integers; auto: the faster on this machine
    )
    bench_batch_sizes: tuple[PositiveInt, ...] = (1, 64)  # batch sizes that backend=auto measures
    per_channel: bool = True  # true: one scale per output channel of the weights; false: one per tensor
    min_quantized_fraction: Probability = (
        0.5  # smallest fraction of multiply-adds in integers; with less, the export fails
    )

    def build(self, context: BuildContext) -> Hooks:
        self.check_options()
        self.check_backend()
        return Hooks()
