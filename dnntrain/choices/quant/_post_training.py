"""What every quantisation after training has: it fills no slot of training, and says how the finished model is exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.protocols import QuantChoice, Refusal, RunFacts

#: What runs integers → the export format for it.
FORMAT_OF_BACKEND = {"onnxruntime": "onnx_int8", "inductor": "pt2_int8"}


@dataclass(frozen=True)
class PostTraining(QuantChoice):
    """Quantizes the trained model: `dnntrain train` writes the export beside the model, `dnntrain export` that of any run."""

    formats: ClassVar[tuple[str, ...]] = ("onnx_int8", "pt2_int8")

    max_metric_drop: Fraction = 0.01  # largest accepted loss of accuracy, as a fraction: 0.01 is one point

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if self.backend == "onnxruntime" and find_spec("onnxruntime") is None:
            yield Refusal(
                "quant.backend=onnxruntime needs onnxruntime, which is not installed",
                "run: pip install 'dnntrain[onnx]', or use quant.backend=inductor",
            )
        if self.backend == "inductor" and not self.per_channel:
            yield Refusal(
                "quant.per_channel=false: Inductor's integer layers have a scale a channel",
                "use quant.per_channel=true, or quant.backend=onnxruntime",
            )

    def check_options(self) -> None:
        """Raises ConfigError if an option has no effect beside the others, in a run as in an export of one."""
        if not self.timing_batch_sizes:
            raise ConfigError("quant.bench_batch_sizes=[] names no batch size", "use quant.bench_batch_sizes=[1,64]")

    def check_backend(self) -> None:
        """Raises ConfigError if the run's own export is not measured at the batch sizes that are named."""
        if self.backend != "auto" and "bench_batch_sizes" in self.get_changed_options():
            raise ConfigError(
                f"quant.bench_batch_sizes={list(self.bench_batch_sizes)} has no effect with quant.backend={self.backend}",
                "use quant.backend=auto, or leave bench_batch_sizes out",
            )

    def notes(self, num_training: int) -> tuple[str, ...]:
        """What the plan says, of a run with so many `training` images."""
        if self.backend != "auto":
            return ()
        sizes = ", ".join(map(str, self.timing_batch_sizes))
        return (f"quant.backend=auto: the integer exports are timed at batch sizes {sizes} (quant.bench_batch_sizes)",)
