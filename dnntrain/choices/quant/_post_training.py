"""Define the base of quantization after training.

It registers no training hooks; it describes the export of the finished model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.quant._backends import BACKENDS, Packages
from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.protocols import QuantChoice, Refusal, RunFacts


@dataclass(frozen=True)
class PostTraining(QuantChoice):
    """Quantize the trained model.

    `dnntrain train` writes the export beside the model; `dnntrain export` writes the export of any
    run.
    """

    formats: ClassVar[tuple[str, ...]] = ("onnx_int8", "pt2_int8")

    max_metric_drop: Fraction = 0.01  # largest accepted loss of accuracy, as a fraction: 0.01 is one point

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        packages = BACKENDS[self.backend].packages if self.backend in BACKENDS else Packages()
        if missing := ", ".join(packages.find_missing(for_writing=True)):
            yield Refusal(
                f"quant.backend={self.backend} needs {missing}, which is not installed",
                f"run: pip install 'dnntrain[{packages.extra}]', or use quant.backend=inductor",
            )
        if self.backend == "inductor" and not self.per_channel:
            yield Refusal(
                "quant.backend=inductor does not support quant.per_channel=false: it needs one scale per channel",
                "use quant.per_channel=true, or quant.backend=onnxruntime",
            )

    def check_options(self) -> None:
        """Raise ConfigError if an option has no effect beside the others.

        The check applies to a run and to an export of a run.
        """
        if not self.timing_batch_sizes:
            raise ConfigError("quant.bench_batch_sizes=[] must name a batch size", "use quant.bench_batch_sizes=[1,64]")

    def check_backend(self) -> None:
        """Raise ConfigError if bench_batch_sizes has no effect on the run's own export."""
        if self.backend != "auto" and "bench_batch_sizes" in self.get_changed_options():
            raise ConfigError(
                f"quant.bench_batch_sizes={list(self.bench_batch_sizes)} has no effect with quant.backend={self.backend}",
                "use quant.backend=auto, or leave bench_batch_sizes out",
            )

    def notes(self, num_training: int) -> tuple[str, ...]:
        """Return the notes for the plan of a run with `num_training` examples."""
        if self.backend != "auto":
            return ()
        sizes = ", ".join(map(str, self.timing_batch_sizes))
        return (f"quant.backend=auto: the integer exports are timed at batch sizes {sizes} (quant.bench_batch_sizes)",)
