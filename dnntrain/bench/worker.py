"""Hold one model in a process and time it on request.

Requests come on stdin and replies go to stdout, one JSON object per line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import DnntrainError

#: Maximum number of examples for the metric.
_MAX_EXAMPLES = 2000

#: Files of an export that describe its model.
_DESCRIPTIONS = ("manifest.json", "certificate.json")

#: Maximum and minimum number of calls in one block.
_MAX_CALLS, _MIN_CALLS = 2000, 3


class BenchWorker:
    """The requested model, and the answers to requests about it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[: request["threads"]]
            os.sched_setaffinity(0, cores)
        start_s = time.perf_counter()
        import torch

        from dnntrain.inference.load import load_model

        torch.set_num_threads(request["threads"])
        import_end_s = time.perf_counter()
        path = Path(request["path"])
        source_model = load_model(path, request.get("overrides", ()), bool(request.get("trust")))
        self.loaded_model = apply_runtime(source_model, request.get("runtime", ""))
        self.load_s = time.perf_counter() - import_end_s
        self.import_s = import_end_s - start_s
        self.size_bytes = measure_size_bytes(path)
        self._inputs: dict[int, Any] = {}

    def describe_unit(self) -> dict[str, Any]:
        """Return the unit of a rate and its number in an example: the tokens of a text, or the example itself."""
        inputs = self.loaded_model.spec.inputs
        return {"unit": inputs.name, "units_per_example": 1 if inputs.vocabulary is None else inputs.shape[0]}

    def make_call(self, batch: int) -> Callable[[], object]:
        """Return a call of the model on `batch` examples."""
        import torch

        if batch not in self._inputs:
            inputs, generator = self.loaded_model.spec.inputs, torch.Generator().manual_seed(0)
            size = (batch, *inputs.shape)
            self._inputs[batch] = (
                torch.randn(size, generator=generator)
                if inputs.vocabulary is None
                else torch.randint(inputs.vocabulary.size, size, generator=generator)
            )
        inputs = self._inputs[batch]
        # The copies to and from a GPU count too, so that times are comparable.
        return lambda: self.loaded_model.compute_outputs(inputs).cpu()

    def answer_request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        if "warm" in request:
            start_s = time.perf_counter()
            self.make_call(request["warm"])()
            first_call_s = time.perf_counter() - start_s
            time_calls(self.make_call(request["warm"]), 5)
            return {"first_call_s": first_call_s}
        if "seconds" in request:
            call = self.make_call(request["calls"])
            median_s = sorted(time_calls(call, _MIN_CALLS + 2))[2]
            return {"calls": min(_MAX_CALLS, max(_MIN_CALLS, round(request["seconds"] / max(median_s, 1e-9))))}
        if "batch" in request:
            return {"times": time_calls(self.make_call(request["batch"]), request["calls"])}
        if "metric" in request:
            return self.compute_metric()
        from dnntrain.utils.hardware import read_peak_bytes

        return {"peak_memory_bytes": read_peak_bytes(self.loaded_model.device)}

    def compute_metric(self) -> dict[str, Any]:
        """Return name, unit and value of the task's first metric on the test split.

        Up to 2,000 examples are used.
        """
        from dnntrain.inference.evaluate_run import load_data_splits
        from dnntrain.training.evaluation import evaluate

        batches = load_data_splits(self.loaded_model)["test"].make_batches(self.loaded_model, 64, _MAX_EXAMPLES)
        task = self.loaded_model.config.task
        metrics = evaluate(
            task,
            self.loaded_model.spec,
            self.loaded_model.model,
            self.loaded_model.compute_batch_outputs,
            batches,
            lambda sums: sums,
            self.loaded_model.device,
        )
        metric = task.list_metrics()[0]
        return {"name": metric.name, "unit": metric.unit, "value": float(metrics[metric.name])}


def time_calls(call: Callable[[], object], calls: int) -> list[float]:
    """Return the seconds of each of `calls` calls."""
    times = []
    for _ in range(calls):
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return times


def apply_runtime(loaded_model: Any, runtime: str) -> Any:
    """Return a run's model in float32 or bfloat16, eager or compiled and frozen.

    An export is returned unchanged.
    """
    from dataclasses import replace

    import torch

    from dnntrain.choices.quant._fake_quant import remove_fake_quantization
    from dnntrain.export.compiled import CompiledModel
    from dnntrain.export.open_export import RunnerModule

    if not runtime:
        return loaded_model
    # Of a run that was trained with rounding, the float model is timed: integers have their own
    # exports.
    remove_fake_quantization(loaded_model.model)
    mode, _, dtype_name = runtime.partition("_")
    autocast = torch.bfloat16 if dtype_name == "bf16" else None
    if mode == "eager":
        return replace(loaded_model, autocast=autocast)
    compiled = CompiledModel(loaded_model.model, loaded_model.device, autocast)
    return replace(loaded_model, model=RunnerModule(compiled).eval(), autocast=None)


def measure_size_bytes(path: Path) -> int:
    """Return the bytes of the model files of a run or export."""
    if path.is_file():
        weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
        return sum(file.stat().st_size for file in {path, weights})
    if (path / "model.safetensors").is_file() and (path / "config.yaml").is_file():
        return (path / "model.safetensors").stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name not in _DESCRIPTIONS)


def main() -> None:
    """Answer requests until stdin ends."""
    # The output of libraries must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: BenchWorker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = BenchWorker(request)
                reply: dict[str, Any] = {
                    "load_s": worker.load_s,
                    "import_s": worker.import_s,
                    "size_bytes": worker.size_bytes,
                    **worker.describe_unit(),
                }
            else:
                reply = worker.answer_request(request)
        except DnntrainError as error:
            reply = {"error": error.message, "hint": error.hint}
        except Exception as error:  # the parent process reports it
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
