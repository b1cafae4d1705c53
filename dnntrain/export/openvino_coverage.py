"""Count the multiply-adds of an OpenVINO model by their number format.

They are counted from the graph that OpenVINO compiles for the processor, not from the file.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dnntrain.export.op_coverage import OpCoverage, sum_coverage
from dnntrain.export.openvino_files import compile_model, name_openvino_errors

#: Number formats by OpenVINO's names.
_NUMBER_FORMATS = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}

#: The suffix that OpenVINO gives the name of an integer product that it scales back.
_SCALED = "/DequantizationMultiply"

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")


def measure_openvino_coverage(model: Any, inputs: Tensor) -> OpCoverage:
    """Return the operator coverage of `model` for `inputs` [n, …].

    The compiled graph names the operators that each of its nodes computes, and the precision of the
    node. An operator that no node names counts as fp32.
    """
    with name_openvino_errors("OpenVINO cannot compile the model", "use --format onnx"):
        model = model.clone()
        model.reshape(list(inputs.shape))
        precisions = _read_precisions(compile_model(model))
        op_counts = [
            (precisions.get(op.get_friendly_name(), "fp32"), op.get_type_name(), _count_macs(op))
            for op in model.get_ordered_ops()
            if op.get_type_name() in (*_CONVOLUTIONS, "MatMul")
        ]
    return sum_coverage(op_counts, len(inputs))


def _read_precisions(compiled: Any) -> dict[str, str]:
    """Return the number format in which each operator of the model is computed, by name."""
    precisions = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "originalLayersNames" not in info:
            continue
        precision = info["runtimePrecision"].astype(str)
        for name in info["originalLayersNames"].astype(str).split(","):
            precisions[name.removesuffix(_SCALED)] = _NUMBER_FORMATS.get(precision, precision)
    return precisions


def _count_macs(op: Any) -> int:
    """Return the multiply-adds of a convolution or a product of matrices of known shape."""
    output: int = math.prod(op.output(0).get_shape())
    first: list[int] = list(op.input(0).get_shape())
    second: list[int] = list(op.input(1).get_shape())
    if op.get_type_name() == "MatMul":
        return output * first[-2 if op.get_attributes()["transpose_a"] else -1]
    if "Backprop" in op.get_type_name():
        # Weights are [groups, in, out, …]: each input value meets the outputs of its group and the kernel.
        return math.prod(first) * math.prod(second[-len(first) + 1 :])
    # Weights are [groups, out, in, …]: the last axes are inputs of a group, and the kernel.
    return output * math.prod(second[-len(first) + 1 :])
