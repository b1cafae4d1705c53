"""Choose the multiple of channels that the hardware computes without waste."""

from __future__ import annotations

from dnntrain.protocols import WidthMultiple
from dnntrain.utils.hardware import Hardware


def choose_width_multiple(hardware: Hardware, has_integers: bool) -> WidthMultiple:
    """Return the multiple for `hardware`; `has_integers`: the model is exported in 8 bits.

    On a GPU, the number of elements in 16 bytes, the step of tensor cores: 8 of 16 bits, 16 of 8
    bits (NVIDIA, "Matrix multiplication background user's guide"). On a CPU, the 32-bit lanes of a
    vector register, which are also the channels of a block of oneDNN's layouts and of a row of its
    8-bit products.
    """
    if hardware.device == "cuda":
        if has_integers:
            return WidthMultiple(16, "tensor cores multiply 8-bit numbers in steps of 16")
        return WidthMultiple(8, "tensor cores multiply 16-bit numbers in steps of 8")
    if hardware.device == "cpu":
        if "avx512f" in hardware.cpu_features:
            return WidthMultiple(16, "an AVX-512 register has 16 lanes")
        if "avx2" in hardware.cpu_features:
            return WidthMultiple(8, "an AVX2 register has 8 lanes")
        return WidthMultiple(4, "a vector register has 4 lanes")
    return WidthMultiple(8, f"{hardware.device} multiplies 8×8 matrices")
