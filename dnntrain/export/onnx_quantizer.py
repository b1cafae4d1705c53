"""Quantize an ONNX model by ONNX Runtime's quantizer, with ranges of `dnntrain.export.calibration`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnntrain.export.calibration import ValueHistogram, choose_range
from dnntrain.export.onnx_files import open_session
from dnntrain.protocols import QuantChoice

#: Layers with weights: the walk from the outputs to the last layers ends here.
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

#: Operators that average: the rounding of their inputs hardly shows in their output.
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})

#: Most bytes of observed tensors at a time.
_MAX_BYTES = 2**28


def quantize_static(
    model_path: Path, target_path: Path, options: QuantChoice, batches: Iterable[Tensor], reduce_range: bool
) -> None:
    """Write the quantized model to `target_path`: uint8 activations, int8 weights, in QDQ form.

    It differs from `onnxruntime.quantization.quantize_static` in two ways: ranges follow
    `options.observer`, and the outputs of the model are not rounded (`find_float_tensors`).
    """
    quantization: Any = import_module("onnxruntime.quantization")
    calibrate: Any = import_module("onnxruntime.quantization.calibrate")
    registry: Any = import_module("onnxruntime.quantization.registry")
    utils: Any = import_module("onnxruntime.quantization.quant_utils")
    quantizers: Any = import_module("onnxruntime.quantization.qdq_quantizer")
    model = utils.load_model_with_shape_infer(model_path)
    op_types = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
    ranges = calibrate_tensors(model, model_path.parent, op_types, options, batches)
    float_tensors = find_float_tensors(model.graph)

    class Quantizer(quantizers.QDQQuantizer):  # type: ignore[misc]
        def quantize_activation_tensor(self, tensor_name: str) -> None:
            if tensor_name not in float_tensors:
                super().quantize_activation_tensor(tensor_name)

        def quantize_output_same_as_input(self, output_name: str, input_name: str, node_name: str) -> None:
            if output_name not in float_tensors:
                super().quantize_output_same_as_input(output_name, input_name, node_name)

    quantizer = Quantizer(
        model,
        options.per_channel,
        reduce_range,
        quantization.QuantType.QInt8,
        quantization.QuantType.QUInt8,
        calibrate.TensorsData(
            calibrate.CalibrationMethod.MinMax,
            {
                name: (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
                for name, (low, high) in ranges.items()
            },
        ),
        [],
        [],
        op_types,
        {},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target_path), False)


def calibrate_tensors(
    model: Any,
    folder: Path,
    op_types: Iterable[str],
    options: QuantChoice,
    batches: Iterable[Tensor],
) -> dict[str, tuple[float, float]]:
    """Return the range of every float tensor that an operator of `op_types` reads or writes.

    `folder` holds the model for a moment.
    """
    histograms = {name: ValueHistogram() for name in list_float_tensors(model.graph, set(op_types))}
    for values_by_name in _iterate_values(model, folder, tuple(histograms), batches):
        for name, values in values_by_name.items():
            histograms[name].add(values)
    return {
        name: choose_range(histogram, options.observer, options.percentile) for name, histogram in histograms.items()
    }


def list_float_tensors(graph: Any, op_types: set[str]) -> list[str]:
    """Return the names of float tensors, not weights, that operators of `op_types` read or write."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in graph.initializer}
    floats = {
        info.name
        for info in (*graph.value_info, *graph.output, *graph.input)
        if info.type.tensor_type.elem_type == TensorProto.FLOAT and info.name not in weights
    }
    names = [name for node in graph.node if node.op_type in op_types for name in (*node.input, *node.output)]
    return list(dict.fromkeys(name for name in names if name in floats))


def _iterate_values(
    model: Any, folder: Path, names: Sequence[str], batches: Iterable[Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the values of the tensors `names` for some examples at a time, which fit `_MAX_BYTES`."""
    import onnx

    onnxruntime: Any = import_module("onnxruntime")

    observed_model = onnx.ModelProto()
    observed_model.CopyFrom(model)
    infos = {info.name: info for info in model.graph.value_info}
    observed_model.graph.output.extend(infos[name] for name in names if name in infos)
    path = folder / ".observed.onnx"
    onnx.save(observed_model, str(path))
    ort_session = open_session(path, graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    path.unlink()
    input_name = ort_session.get_inputs()[0].name
    output_names = [name for name in names if name != input_name]
    size = 0
    for batch in batches:
        while len(batch):
            inputs = batch[: size or 1]
            arrays = ort_session.run(output_names, {input_name: inputs.contiguous().numpy()})
            size = size or max(1, int(_MAX_BYTES // max(1, sum(array.nbytes for array in arrays))))
            yield {
                input_name: inputs,
                **{name: torch.from_numpy(array) for name, array in zip(output_names, arrays, strict=True)},
            }
            batch = batch[len(inputs) :]


def find_float_tensors(graph: Any) -> set[str]:
    """Return the tensors from the last layers to the outputs of the model, which stay in float.

    Rounded outputs would all be multiples of one step. The walk from each output passes every
    operator, such as the addition of a bias, up to a layer with weights or an average.
    """
    weights = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    float_tensors: set[str] = set()
    pending = [output.name for output in graph.output]
    while pending:
        name = pending.pop()
        node = makers.get(name)
        if node is None or name in float_tensors:
            continue
        float_tensors.add(name)
        is_layer = node.op_type in _LAYERS and any(item in weights for item in node.input[1:2])
        if not is_layer and node.op_type not in _AVERAGES:
            pending += node.input
    return float_tensors
