"""A process that holds one model and times it on request. One JSON object a line: requests on stdin, replies on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import DnntrainError

#: Most images that the accuracy is of.
_SAMPLES = 2000

#: Most and fewest calls of one block.
_MOST_CALLS, _LEAST_CALLS = 2000, 3


class Measured:
    """The model that was asked for, and what is done with it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[: request["threads"]]
            os.sched_setaffinity(0, cores)
        started = time.perf_counter()
        import torch

        from dnntrain.inference.load import load_trained

        torch.set_num_threads(request["threads"])
        imported = time.perf_counter()
        path = Path(request["path"])
        trained = load_trained(path, request.get("overrides", ()), bool(request.get("trust")))
        self.trained = with_runtime(trained, request.get("runtime", ""))
        self.load_s = time.perf_counter() - imported
        self.import_s = imported - started
        self.size_bytes = size_of(path)
        self._images: dict[int, Any] = {}

    def run(self, batch: int) -> Callable[[], object]:
        """A call on `batch` images."""
        import torch

        if batch not in self._images:
            generator = torch.Generator().manual_seed(0)
            self._images[batch] = torch.randn(batch, *self.trained.input_shape, generator=generator)
        images = self._images[batch]
        # From the processor's memory and back to it: so a GPU's time is the whole, and comparable.
        return lambda: self.trained.logits(images).cpu()

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        if "warm" in request:
            started = time.perf_counter()
            self.run(request["warm"])()
            first = time.perf_counter() - started
            timed(self.run(request["warm"]), 5)
            return {"first_call_s": first}
        if "seconds" in request:
            call = self.run(request["calls"])
            typical = sorted(timed(call, _LEAST_CALLS + 2))[2]
            return {"calls": min(_MOST_CALLS, max(_LEAST_CALLS, round(request["seconds"] / max(typical, 1e-9))))}
        if "batch" in request:
            return {"times": timed(self.run(request["batch"]), request["calls"])}
        if "accuracy" in request:
            return {"accuracy": self.accuracy()}
        from dnntrain.utils.hardware import peak_bytes

        return {"peak_memory_bytes": peak_bytes(self.trained.device)}

    def accuracy(self) -> float:
        """On up to 2,000 images of the test part."""
        from dnntrain.inference.load import parts_of
        from dnntrain.training.evaluation import evaluate

        batches = parts_of(self.trained)["test"].batches(self.trained, 64, _SAMPLES)
        found = evaluate(self.trained.model, self.trained.outputs, batches, lambda sums: sums, self.trained.device)
        return float(found["accuracy"])


def timed(call: Callable[[], object], calls: int) -> list[float]:
    """Seconds of each of `calls` calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def with_runtime(trained: Any, runtime: str) -> Any:
    """The model of a run in float32 or bfloat16, eager or compiled and frozen. An export runs as it is."""
    from dataclasses import replace

    import torch

    from dnntrain.choices.quant._fake_quant import restored
    from dnntrain.export.compiled import Compiled
    from dnntrain.export.open_export import RunnerModule

    if not runtime:
        return trained
    # Of a run that was trained with rounding, what floats compute: integers have exports of their own.
    restored(trained.model)
    mode, _, number = runtime.partition("_")
    autocast = torch.bfloat16 if number == "bf16" else None
    if mode == "eager":
        return replace(trained, autocast=autocast)
    compiled = Compiled(trained.model, trained.device, autocast)
    return replace(trained, model=RunnerModule(compiled).eval(), autocast=None)


def size_of(path: Path) -> int:
    """Bytes of the model files of a run or export."""
    if path.is_file():
        return path.stat().st_size
    if (path / "model.safetensors").is_file() and (path / "config.yaml").is_file():
        return (path / "model.safetensors").stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != "manifest.json")


def main() -> None:
    """Answers until stdin ends."""
    # What libraries print must not stand between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    measured: Measured | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if measured is None:
                measured = Measured(request)
                reply: dict[str, Any] = {
                    "load_s": measured.load_s,
                    "import_s": measured.import_s,
                    "size_bytes": measured.size_bytes,
                }
            else:
                reply = measured.reply(request)
        except DnntrainError as error:
            reply = {"error": error.message, "hint": error.hint}
        except Exception as error:  # the asking process says what it was
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
