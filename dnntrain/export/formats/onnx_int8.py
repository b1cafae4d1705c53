"""`format=onnx_int8`: the ONNX model, quantised by ONNX Runtime's own quantiser."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor

from dnntrain.choices.quant._int_modules import converted
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.errors import CheckpointError
from dnntrain.export.formats import Format, Runner, Source, model_file
from dnntrain.export.formats.onnx import runner, written
from dnntrain.export.manifest import EMBEDDED, Card
from dnntrain.export.onnx_files import with_card
from dnntrain.export.op_coverage import check_share, onnx_census
from dnntrain.utils.hardware import has_vnni

FILE = "model_int8.onnx"


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model_int8.onnx, and the census of what ran. Raises CheckpointError where too little ran in integers."""
    knobs: Any = source.quant
    if knobs.learned:
        written(replace(source, model=converted(source.model)), folder / FILE)
    else:
        _quantised(source, folder)
    with_card(folder / FILE, EMBEDDED, source.card.text())
    census = onnx_census(folder / FILE, source.images)
    check_share(census, "int8", knobs.min_share, "onnx_int8")
    return {"census": census.as_json()}


def _quantised(source: Source, folder: Path) -> None:
    """The float model, quantised by ONNX Runtime."""
    knobs: Any = source.quant
    floating, prepared = folder / ".float.onnx", folder / ".prepared.onnx"
    written(source, floating)
    with _quiet():
        try:
            shapes = import_module("onnxruntime.quantization.shape_inference")
            shapes.quant_pre_process(str(floating), str(prepared), skip_symbolic_shape=True)
            if isinstance(knobs, Int8Static):
                _static(prepared, folder / FILE, knobs, list(source.calibration))
            else:
                _dynamic(prepared, folder / FILE, knobs.per_channel)
        except Exception as error:  # ONNX Runtime has an exception for each way to fail, without a common one
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CheckpointError(
                f"ONNX Runtime cannot quantise this model: {line[:300]}", "use format=pt2_int8, or format=onnx"
            ) from error
    floating.unlink()
    prepared.unlink()


def load(place: Path, card: Card, device: str) -> Runner:
    """The model in ONNX Runtime, on the CPU."""
    return runner(model_file(place, FILE))


def _static(model: Path, target: Path, knobs: Int8Static, batches: Sequence[Tensor]) -> None:
    quantization: Any = import_module("onnxruntime.quantization")
    calibrate: Any = import_module("onnxruntime.quantization.calibrate")

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._rest, None)
            return None if batch is None else {"images": batch.numpy()}

    method = {"minmax": "MinMax", "histogram": "Entropy", "percentile": "Percentile"}[knobs.observer]
    quantization.quantize_static(
        str(model),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=knobs.per_channel,
        reduce_range=not has_vnni(),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod[method],
        extra_options={"CalibPercentile": knobs.percentile} if knobs.observer == "percentile" else {},
    )


def _dynamic(model: Path, target: Path, per_channel: bool) -> None:
    quantization: Any = import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        str(model),
        str(target),
        per_channel=per_channel,
        reduce_range=not has_vnni(),
        # ONNX Runtime's integer convolution takes unsigned weights only.
        weight_type=quantization.QuantType.QUInt8,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's notes on the root logger and on stdout, which is for our own output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


FORMAT = Format(
    "onnx_int8",
    "8-bit integers in ONNX Runtime",
    write,
    load,
    exact=False,
    suffix=".onnx",
    requires=("onnx", "onnxscript", "onnxruntime"),
)
