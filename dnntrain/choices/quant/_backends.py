"""List the runtimes of integer exports: their formats, and the packages that they need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Packages:
    """The packages that a format of exports imports, and the extra that installs them.

    reading  to load an export
    writing  to make one, besides
    """

    reading: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()
    extra: str = ""

    def find_missing(self, *, for_writing: bool) -> Iterator[str]:
        """Yield the packages that are not installed."""
        for name in (*self.reading, *(self.writing if for_writing else ())):
            if find_spec(name) is None:
                yield name


ONNX_PACKAGES = Packages(("onnx", "onnxruntime"), ("onnxscript",), "onnx")
OPENVINO_PACKAGES = Packages(("openvino",), ("onnx", "onnxscript"), "openvino")
NNCF_PACKAGES = Packages(("openvino",), ("nncf", "onnx", "onnxscript"), "openvino")


@dataclass(frozen=True)
class Backend:
    """A runtime of integers, as `quant.backend` names it: its export format and its packages."""

    format: str
    packages: Packages = Packages()


BACKENDS = {
    "onnxruntime": Backend("onnx_int8", ONNX_PACKAGES),
    "inductor": Backend("pt2_int8"),
    "openvino": Backend("openvino_int8", NNCF_PACKAGES),
}


def get_backend_format(backend: str, default: str) -> str:
    """Return the export format of `backend`, or `default` if it is auto or empty."""
    return BACKENDS[backend].format if backend in BACKENDS else default
