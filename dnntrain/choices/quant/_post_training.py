"""What every quantisation after training has: it fills no slot of training, and says how the finished model is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.protocols import LayoutRequirement
from dnntrain.utils.hardware import Hardware

#: What runs integers → the export format for it.
FORMAT_OF_BACKEND = {"onnxruntime": "onnx_int8", "inductor": "pt2_int8"}


@dataclass(frozen=True)
class PostTraining:
    """Quantises the finished model: `dnntrain train` writes the export beside the model, `dnntrain export` of any run.

    formats    export formats that can hold it, the one to prefer first
    calibrates true where ranges of activations are read from training images
    learned    true where they, and the weights, were trained for it
    """

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset()
    formats: ClassVar[tuple[str, ...]] = ("onnx_int8", "pt2_int8")
    needs_calibration: ClassVar[bool] = False
    is_quantization_aware: ClassVar[bool] = False

    max_drop: Fraction = 0.01  # largest drop of the task's metric that is accepted: 0.01 is one point of a share

    def refusal(self, hardware: Hardware) -> tuple[str, str] | None:
        """Why `hardware` cannot run it, to follow the name of the choice, and what to use there; None where it can."""
        return None

    @property
    def timing_batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that exports are measured at where the fastest is wanted: ascending, each once."""
        return tuple(sorted(set(getattr(self, "auto_batches", (1, 64)))))

    def check_options(self) -> None:
        """Raises ConfigError where a knob has no effect beside the others, in a run as in an export of one."""
        if not self.timing_batch_sizes:
            raise ConfigError("quant.auto_batches=[] names no batch size", "use quant.auto_batches=[1,64]")

    def check_backend(self) -> None:
        """Raises ConfigError where the run's own export is not measured at the batch sizes that are named."""
        backend, batches = getattr(self, "backend", "auto"), getattr(self, "auto_batches", None)
        if batches is None:
            return
        if backend != "auto" and batches != type(self).auto_batches:  # type: ignore[attr-defined]
            raise ConfigError(
                f"quant.auto_batches={list(batches)} has no effect with quant.backend={backend}",
                "use quant.backend=auto, or leave auto_batches out",
            )

    def notes(self, num_training: int) -> tuple[str, ...]:
        """What the plan says, of a run with so many `training` images."""
        if getattr(self, "backend", "") != "auto":
            return ()
        sizes = ", ".join(map(str, self.timing_batch_sizes))
        return (f"quant.backend=auto: the integer exports are timed at batch sizes {sizes} (quant.auto_batches)",)
