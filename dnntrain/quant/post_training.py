"""What every quantisation after training has: it fills no slot of training, and says how the finished model is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Fraction
from dnntrain.hardware import Hardware
from dnntrain.protocols import Need


@dataclass(frozen=True)
class PostTraining:
    """Quantises the finished model: `dnntrain train` writes the export beside the model, `dnntrain export` of any run.

    formats    export formats that can hold it, the one to prefer first
    calibrates true where ranges of activations are read from training images
    learned    true where they, and the weights, were trained for it
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    formats: ClassVar[tuple[str, ...]] = ("onnx_int8", "pt2_int8")
    calibrates: ClassVar[bool] = False
    learned: ClassVar[bool] = False

    max_drop: Fraction = 0.01  # largest loss of accuracy that is accepted, as a fraction: 0.01 is one point

    def refusal(self, hardware: Hardware) -> tuple[str, str] | None:
        """Why `hardware` cannot run it, to follow the name of the choice, and what to use there; None where it can."""
        return None
