"""Measure OpenVINO beside ONNX Runtime on the same files: fp32, bf16, and the 8-bit export that OpenVINO reads too.

With nncf installed, a row has the network that NNCF quantized for OpenVINO, calibrated with random images.

    pip install --no-deps --target FOLDER/site openvino
    PYTHONPATH=FOLDER/site python scripts/bench/openvino_rows.py --folder FOLDER --models resnet18 vit_tiny

`scripts/bench/exports.py --folder FOLDER --only prepare` makes the runs and their exports first. Sessions take
turns with blocks of calls, and the figure is images per second with an interval of 95 %.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.bench.statistics import compute_ratio_interval

Call = Callable[[NDArray[np.float32]], Any]
#: Seconds of a block of calls.
BLOCK_S = 0.2
#: Images with which NNCF measures the ranges of activations.
CALIBRATION = 100
FILES = {"onnx": "model.onnx", "onnx_int8": "model_int8.onnx"}


def main() -> None:
    """Print a row for each session and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v3_small", "vit_tiny"])
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.2f}, {options.threads} threads")
    for model in options.models:
        calls: dict[str, Call] = {}
        for name in FILES:
            path = options.folder / model / "exports" / name / FILES[name]
            calls[f"ONNX Runtime {name}"], shape = open_onnx_runtime(path, options.threads)
            calls[f"OpenVINO {name}"] = open_openvino(path, options.threads)
        path = options.folder / model / "exports" / "onnx" / FILES["onnx"]
        calls["OpenVINO bf16"] = open_openvino(path, options.threads, "bf16")
        if find_spec("nncf") is not None:
            calls["OpenVINO NNCF int8"] = open_openvino(path, options.threads, quantized_shape=shape)
        for batch in map(int, options.batches.split(",")):
            images = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
            times = time_in_turns(calls, images, options.rounds)
            for name, values in times.items():
                ratio = compute_ratio_interval(times["ONNX Runtime onnx"], values)
                rate = batch / sorted(values)[len(values) // 2]
                print(f"{model:<20} batch {batch:<3} {name:<24} {rate:8.0f}/s  {ratio.median:.2f} x", end="")
                print(f" ({ratio.low:.2f} to {ratio.high:.2f}) ONNX Runtime fp32", flush=True)


def time_in_turns(calls: dict[str, Call], images: NDArray[np.float32], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a call of each session, as the mean of each block."""
    counts = {}
    for name, call in calls.items():
        call(images)
        start = time.perf_counter()
        call(images)
        counts[name] = max(1, round(BLOCK_S / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in calls if number % 2 == 0 else reversed(calls):
            start = time.perf_counter()
            for _ in range(counts[name]):
                calls[name](images)
            times[name].append((time.perf_counter() - start) / counts[name])
    return times


def open_onnx_runtime(path: Path, threads: int) -> tuple[Call, tuple[int, ...]]:
    """Return a call of the file in ONNX Runtime, and the shape of an image."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    return lambda images: session.run(None, {model_input.name: images}), tuple(model_input.shape[1:])


def open_openvino(
    path: Path, threads: int, precision: str = "f32", quantized_shape: tuple[int, ...] | None = None
) -> Call:
    """Return a call of the file in OpenVINO; with `quantized_shape` NNCF quantizes it for images of that shape."""
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    model = core.read_model(path)
    if quantized_shape is not None:
        import nncf

        images = np.random.default_rng(1).standard_normal((CALIBRATION, 1, *quantized_shape)).astype(np.float32)
        model = nncf.quantize(model, nncf.Dataset(list(images)), subset_size=CALIBRATION)
    compiled = core.compile_model(model, "CPU", hints)
    return lambda images: compiled([images])


if __name__ == "__main__":
    main()
