"""Count the executed multiply-adds of one forward pass by their number format.

They are counted from a profile, not from the file: this exposes a "quantized" model that falls back
to floating point.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.export.onnx_files import load_onnx, open_session

#: Images of the counted pass.
_NUM_EXAMPLES = 2

Shape = Sequence[int]


@dataclass(frozen=True)
class OpCoverage:
    """Multiply-adds for one example, by number format (int8, fp8, bf16, fp16, fp32) and by operator."""

    macs: Mapping[str, float]
    operators: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.macs.values())

    def get_share(self, kind: str) -> float:
        """Return the share of the multiply-adds that ran in `kind`; 0 if none were seen."""
        return self.macs.get(kind, 0.0) / self.total if self.total else 0.0

    def as_json(self) -> dict[str, Any]:
        shares = {kind: self.get_share(kind) for kind in sorted(self.macs)}
        return {"shares": shares, "macs": dict(self.macs), "operators": dict(self.operators)}

    def __str__(self) -> str:
        if not self.total:
            return "no multiply-add was seen"
        kinds = sorted(self.macs, key=lambda kind: -self.macs[kind])
        return ", ".join(f"{100 * self.get_share(kind):.1f} % {kind}" for kind in kinds) + " of the multiply-adds"


def check_share(coverage: OpCoverage, kind: str, min_quantized_fraction: float, name: str) -> None:
    """Check that at least `min_quantized_fraction` of the multiply-adds ran in `kind`.

    Raises CheckpointError if less did.
    """
    if coverage.get_share(kind) < min_quantized_fraction:
        raise CheckpointError(
            f"--format {name} must compute in {kind}, and computes {coverage}: less than "
            f"quant.min_quantized_fraction={min_quantized_fraction}",
            "this model falls back to floating point here: use another backend, or --format onnx; "
            "quant.min_quantized_fraction=0 allows it",
        )


def measure_onnx_coverage(path: Path, inputs: Tensor, batch: int | None = None) -> OpCoverage:
    """Return the operator coverage of an ONNX model in ONNX Runtime.

    Its profiler gives the operators, the optimized graph the shapes of the weights. `batch` is the
    number of examples that the model is fixed to, if it is.
    """
    inputs = inputs[: batch or _NUM_EXAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        graph_path = Path(folder) / "optimized.onnx"
        ort_session = open_session(
            path,
            enable_profiling=True,
            profile_file_prefix=str(Path(folder) / "profile"),
            optimized_model_filepath=str(graph_path),
        )
        ort_session.run(None, {ort_session.get_inputs()[0].name: inputs.numpy()})
        events = json.loads(Path(ort_session.end_profiling()).read_text(encoding="utf-8"))
        graph = load_onnx(graph_path).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    op_counts = []
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        values = event["args"]
        kind = values["op_name"]
        if kind not in _ONNX_WEIGHT_INPUT:
            continue
        weight_index = _ONNX_WEIGHT_INPUT[kind]
        input_shapes = [next(iter(item.items())) for item in values["input_type_shape"]]
        output = next(iter(values["output_type_shape"][0].values()))
        node = nodes.get(event["name"].removesuffix("_kernel_time"))
        weight = weights.get(node.input[weight_index]) if node is not None and len(node.input) > weight_index else None
        if weight is None and len(input_shapes) > weight_index:
            weight = tuple(input_shapes[weight_index][1])
        if kind in ("QLinearConv", "ConvInteger", "Conv", "FusedConv", "NhwcFusedConv"):
            macs = math.prod(output) * math.prod((weight or (0,))[1:])
        else:
            macs = math.prod(output) * input_shapes[0][1][-1]
        number_format = (
            "int8"
            if kind not in _ONNX_FLOAT_WEIGHT_INPUT
            else _NUMBER_FORMATS.get(input_shapes[0][0], input_shapes[0][0])
        )
        op_counts.append((number_format, kind, macs))
    return sum_coverage(op_counts, len(inputs))


#: Operators of ONNX Runtime that multiply and add, and the input that holds the weight.
_ONNX_FLOAT_WEIGHT_INPUT = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
}
_ONNX_WEIGHT_INPUT = _ONNX_FLOAT_WEIGHT_INPUT | {
    "QLinearConv": 3,
    "ConvInteger": 1,
    "QGemm": 3,
    "QLinearMatMul": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}

_NUMBER_FORMATS = {
    "float": "fp32",
    "double": "fp64",
    "float16": "fp16",
    "bfloat16": "bf16",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "unsigned char": "int8",
    "signed char": "int8",
    "uint8": "int8",
    "int8": "int8",
    "c10::Float8_e4m3fn": "fp8",
}


def measure_torch_coverage(run: Callable[[Tensor], Tensor], inputs: Tensor) -> OpCoverage:
    """Return the operator coverage of a torch function, eager or compiled by Inductor.

    The profiler does not see what Inductor fuses into its own kernels, such as small batched
    products, nor what AOTInductor calls past the dispatcher (see `measure_onednn_coverage`).
    """
    # Read when the profiler is loaded: it notes that there is no GPU, and when it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from torch.profiler import ProfilerActivity, profile

    inputs = inputs[:_NUM_EXAMPLES]
    with torch.no_grad():
        run(inputs)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as profiler:
            run(inputs)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    op_counts = []
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "cpu_op" and "Input Dims" in arguments:
            op_count = _count_torch_macs(event["name"], arguments)
            if op_count is not None:
                op_counts.append(op_count)
    return sum_coverage(op_counts, len(inputs))


def _count_torch_macs(name: str, arguments: Mapping[str, Any]) -> tuple[str, str, float] | None:
    dims, types = arguments["Input Dims"], arguments["Input type"]
    if name in _TORCH_MATMUL:
        left, right, transposed = _TORCH_MATMUL[name]
        number_format = _NUMBER_FORMATS.get(types[left], types[left])
        columns = dims[right][-2] if transposed else dims[right][-1]
        return number_format, name, math.prod(dims[left]) * columns
    if name in _TORCH_CONV:
        image, weight, stride = _TORCH_CONV[name]
        if name.startswith("mkldnn::_convolution_pointwise"):
            # The overloads that add a second tensor have it before or after the image.
            inplace = name.endswith("_")
            binary = inplace or (len(dims) > 3 and len(dims[2]) == 4)
            image, weight = (1, 2) if inplace else (0, 2) if binary else (0, 1)
            stride = weight + 3
        values = [_parse_numbers(value) for value in arguments.get("Concrete Inputs", [])]
        first = stride if not name.startswith("mkldnn") else stride - 1
        groups_at = first + (3 if not name.startswith("aten") else 5)
        strides, padding = values[first], values[first + 1]
        if name.startswith("mkldnn"):
            strides, padding = padding, strides
        dilation = values[first + 2]
        del groups_at
        kernel = dims[weight][2:]
        spatial = [
            (size + 2 * pad - spread * (width - 1) - 1) // step + 1
            for size, pad, spread, width, step in zip(
                dims[image][2:], _to_pair(padding), _to_pair(dilation), kernel, _to_pair(strides), strict=False
            )
        ]
        macs = dims[image][0] * math.prod(dims[weight]) * math.prod(spatial)
        return _NUMBER_FORMATS.get(types[image], types[image]), name, macs
    if name in _TORCH_ATTENTION:
        query, key = dims[0], dims[1]
        macs = 2 * math.prod(query) * key[-2]
        return _NUMBER_FORMATS.get(types[0], types[0]), name, macs
    return None


#: operator → (left, right, whether right is [columns, inner]); each is a leaf, so that nothing counts twice.
_TORCH_MATMUL = {
    "aten::mm": (0, 1, False),
    "aten::addmm": (1, 2, False),
    "aten::bmm": (0, 1, False),
    "aten::baddbmm": (1, 2, False),
    "aten::_int_mm": (0, 1, False),
    "aten::_scaled_mm": (0, 1, False),
    "mkldnn::_linear_pointwise": (0, 1, True),
    "mkl::_mkl_linear": (0, 2, True),
    "onednn::qlinear_pointwise": (0, 3, False),
}
#: operator → (image, weight, stride)
_TORCH_CONV = {
    "aten::convolution": (0, 1, 3),
    "mkldnn::_convolution_pointwise": (0, 1, 4),
    "mkldnn::_convolution_pointwise_": (1, 2, 5),
    "onednn::qconv_pointwise": (0, 3, 7),
    "onednn::qconv2d_pointwise": (0, 3, 8),
}
_TORCH_ATTENTION = ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_flash_attention_forward")


def _parse_numbers(value: Any) -> list[int]:
    """Return the integers of a list as the profiler writes it: "[1, 1]"."""
    text = str(value).strip("[]")
    try:
        return [int(item) for item in text.split(",")] if text else []
    except ValueError:
        return []


def _to_pair(values: list[int]) -> list[int]:
    return values * 2 if len(values) == 1 else values


def sum_coverage(op_counts: Iterable[tuple[str, str, float]], examples: int) -> OpCoverage:
    """Return the coverage for one example.

    `op_counts` are (number format, operator, multiply-adds) for `examples` of them.
    """
    macs: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for number_format, operator, count in op_counts:
        macs[number_format] += count / examples  # type: ignore[assignment]
        operators[operator] += count / examples  # type: ignore[assignment]
    return OpCoverage(dict(macs), dict(operators))
