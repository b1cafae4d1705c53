"""Which limit stops integers on a run whose exports exports.py made: evidence for one batch size.

    python scripts/bench/export_limits.py RUN --batch 64 --threads 2

Time by kind of operator, of ONNX Runtime's own profiler and of oneDNN's log; the rate of products of the same shapes alone, in fp32,
bf16 and int8; the bytes that each layer reads and writes over the bandwidth of this machine's memory; the time of an operator that
does nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dnntrain.export.compiled import CompiledModel
from dnntrain.export.onednn import trace_primitives
from dnntrain.export.onnx_files import open_session
from dnntrain.export.open_export import open_export
from dnntrain.inference.load import load_run

CALLS = 30
#: Operators of ONNX Runtime that multiply and add.
PRODUCTS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "QLinearConv", "QGemm", "QLinearMatMul"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    trained = load_run(arguments.run, ["device=cpu"])
    images = torch.randn(arguments.batch, *trained.spec.inputs.shape)
    exports = arguments.run / "exports"
    print(f"\nWhat limits integers: {arguments.run.name}, batch {arguments.batch}")
    with torch.inference_mode():
        floats = onnxruntime_times(exports / "onnx" / "model.onnx", images)
        integers = onnxruntime_times(exports / "onnx_int8" / "model_int8.onnx", images)
        say_onnxruntime(floats, integers)
        in_onednn("compiled bf16", CompiledModel(trained.model, "cpu", torch.bfloat16), images)
        in_onednn("pt2_int8", open_export(exports / "pt2_int8").load("cpu", trust=True), images)
        layers = shapes(trained.model, images)
        products(layers, arguments.batch)
        traffic(layers)
    overhead(sum(floats[1].values()), sum(integers[1].values()))


Times = tuple[Counter[str], Counter[str], float]


def onnxruntime_times(path: Path, images: Tensor) -> Times:
    """(microseconds of a call by operator, nodes by operator, microseconds of a call that is not profiled: the median)."""
    plain = open_session(path)
    name = plain.get_inputs()[0].name
    call_us = 1e6 * median_s(lambda: plain.run(None, {name: images.numpy()}))
    with tempfile.TemporaryDirectory() as folder:
        running = open_session(path, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        for _ in range(CALLS + 5):
            running.run(None, {name: images.numpy()})
        events = json.loads(Path(running.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    kinds = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault(event["name"], []).append(event["dur"])
            kinds[event["name"]] = event["args"]["op_name"]
    spent: Counter[str] = Counter()
    nodes = Counter(kinds.values())
    for node, found in times.items():
        # The profiler counts whole microseconds: means keep what medians of small nodes would lose.
        spent[kinds[node]] += statistics.fmean(sorted(found)[: max(1, len(found) // 2)])  # type: ignore[assignment]
    return spent, nodes, call_us


def say_onnxruntime(floats: Times, integers: Times) -> None:
    for name, (spent, nodes, call_us) in (("fp32", floats), ("int8", integers)):
        total = sum(spent.values())
        listed = ", ".join(f"{kind} ×{nodes[kind]} {100 * us / total:.0f} %" for kind, us in spent.most_common(7))
        print(f"  ONNX Runtime {name}: {call_us:.0f} µs a call, {sum(nodes.values())} nodes: {listed}")
    (before, rest_before), (after, rest_after) = (split(times) for times in (floats, integers))
    free = floats[2] / (integers[2] * after / (after + rest_after))
    print(
        f"  its products: fp32 {before:.0f} µs, int8 {after:.0f} µs ({before / after:.2f} times as fast); all other nodes: "
        f"{rest_before:.0f} and {rest_after:.0f} µs. Were those of int8 free, int8 would be {free:.2f} times as fast as fp32"
    )


def split(times: Times) -> tuple[float, float]:
    """Microseconds in products, and in all else."""
    products = sum(us for kind, us in times[0].items() if kind in PRODUCTS)
    return products, sum(times[0].values()) - products


def in_onednn(name: str, run: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """The share of a call that oneDNN's primitives take, and their number."""
    logs = [trace_primitives(run, images) for _ in range(5)]
    spent = [sum(item.duration_ms for item in log if item.macs) for log in logs]
    moved = [sum(item.duration_ms for item in log if not item.macs) for log in logs]
    counted = Counter(item.number_format for item in logs[0] if item.macs)
    call = 1000 * median_s(lambda: run(images))
    listed = ", ".join(f"{count} {number}" for number, count in counted.items())
    print(
        f"  {name}: {call:.3f} ms a call; {listed} products in oneDNN {min(spent):.3f} ms, its reorders {min(moved):.3f} ms, "
        f"all else (fused elementwise loops, copies, dispatch) {max(call - min(spent) - min(moved), 0):.3f} ms"
    )


class Layer:
    """One convolution or linear layer as it was called."""

    def __init__(self, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        self.depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.weights, self.inputs, self.outputs = weight.numel(), inputs.numel(), outputs.numel()
        self.columns = weight.shape[0]
        self.inner = weight[0].numel()
        self.rows = outputs.numel() // self.columns
        self.macs = self.rows * self.columns * self.inner


def shapes(model: nn.Module, images: Tensor) -> list[Layer]:
    """The layers of a forward pass, in order."""
    found: list[Layer] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, outputs: found.append(Layer(module, inputs[0], outputs)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def products(layers: list[Layer], batch: int) -> None:
    """Billions of multiply-adds a second of matrix products of the layers' shapes, and of one large product."""
    dense = [layer for layer in layers if not layer.depthwise]
    total, apart = sum(layer.macs for layer in layers), sum(layer.macs for layer in layers if layer.depthwise)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
    small, large = [], []
    for kind in kinds.values():
        seconds = sum(product_s(layer.rows, layer.inner, layer.columns, kind) for layer in dense)
        small.append(sum(layer.macs for layer in dense) / seconds / 1e9)
        large.append(1024**3 / product_s(1024, 1024, 1024, kind) / 1e9)
    print(
        f"  {total / batch / 1e6:.1f} million multiply-adds an image, {100 * apart / total:.0f} % in depthwise convolutions. "
        f"Matrix products of the others' shapes, GMAC/s in {', '.join(kinds)}: {', '.join(f'{rate:.0f}' for rate in small)}; "
        f"of 1024×1024×1024: {', '.join(f'{rate:.0f}' for rate in large)}"
    )


def product_s(rows: int, inner: int, columns: int, kind: torch.dtype) -> float:
    """Seconds of one matrix product."""
    if kind == torch.int8:
        left, right = (torch.randint(-8, 8, size, dtype=kind) for size in ((rows, inner), (inner, columns)))
        return median_s(lambda: torch._int_mm(left, right), 0.02)
    left, right = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
    return median_s(lambda: left @ right, 0.02)


def traffic(layers: list[Layer]) -> None:
    """Milliseconds that reading and writing take at the least, if each layer's tensors come from memory, and go there."""
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * source.numel() / median_s(lambda: target.copy_(source))
    numbers = sum(layer.weights + layer.inputs + layer.outputs for layer in layers)
    listed = ", ".join(
        f"{name} {1000 * size * numbers / bandwidth:.3f}" for name, size in (("fp32", 4), ("bf16", 2), ("int8", 1))
    )
    print(
        f"  weights and activations of all layers: {numbers / 1e6:.1f} million numbers; at {bandwidth / 1e9:.1f} GB/s (copy) "
        f"ms at the least: {listed}"
    )


def overhead(float_nodes: int, integer_nodes: int) -> None:
    """What a node of ONNX Runtime costs that computes nothing to speak of, times the nodes."""
    names = [f"t{number}" for number in range(201)]
    nodes = [onnx.helper.make_node("Abs", [a], [b]) for a, b in itertools.pairwise(names)]
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1]) for name in (names[0], names[-1])]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        onnx.save(model, str(path))
        running = open_session(path)
        each_us = 1e6 * median_s(lambda: running.run(None, {names[0]: torch.ones(1).numpy()})) / len(nodes)
    print(
        f"  an empty node costs {each_us:.2f} µs: {float_nodes * each_us:.0f} µs of fp32's call, "
        f"{integer_nodes * each_us:.0f} µs of int8's"
    )


def median_s(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The median time of a call, over about `seconds`."""
    for _ in range(3):
        call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
