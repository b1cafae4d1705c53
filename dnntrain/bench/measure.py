"""Time models side by side, in interleaved rounds.

Each round of a batch size times every model once, in rotating order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dnntrain.bench.model_processes import ModelProcess
from dnntrain.bench.statistics import Interval, compute_median_interval, compute_percentiles, compute_ratio_interval
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.utils.hardware import Hardware, probe_hardware
from dnntrain.utils.units import format_seconds, pluralize


@dataclass(frozen=True)
class Candidate:
    """A model to time: its name in the table, and the load request of its process.

    threads  CPU threads, if not as many as of the other candidates
    """

    name: str
    request: Mapping[str, Any]
    threads: int | None = None


@dataclass(frozen=True)
class BenchMetric:
    """A metric of the task, measured on the test split."""

    name: str
    unit: str
    value: float


@dataclass(eq=False)
class BenchResult:
    """The measurements of one candidate.

    latencies   seconds of each call, by batch size
    rates       images, rows or tokens per second of each round, by batch size
    """

    name: str
    load_info: dict[str, Any]
    latencies: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    metric: BenchMetric | None = None
    peak_memory_bytes: int = 0
    first_call_s: dict[int, float] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What the rates count: images, rows or tokens."""
        return str(self.load_info.get("unit", "images"))

    def throughput(self, batch: int) -> Interval:
        return compute_median_interval(self.rates[batch])

    def count_units(self, batch: int) -> int:
        """Return the images, rows or tokens of a call with `batch` examples."""
        return batch * int(self.load_info.get("units_per_example", 1))

    def call_ms(self, batch: int) -> Interval:
        """Return the milliseconds of a call with `batch` examples: the mean of each round, over the rounds."""
        return compute_median_interval([1000 * self.count_units(batch) / rate for rate in self.rates[batch]])

    @property
    def best_batch(self) -> int:
        return max(self.rates, key=lambda batch: self.throughput(batch).median)

    def ratio(self, base: BenchResult, batch: int) -> Interval:
        """Return the ratio of the rate to that of `base`, round by round.

        Only the first rounds count, in which both took part.
        """
        num_shared = min(len(self.rates[batch]), len(base.rates[batch]))
        return compute_ratio_interval(self.rates[batch][:num_shared], base.rates[batch][:num_shared])

    def as_json(self, base: BenchResult) -> dict[str, Any]:
        batches = {
            str(batch): {
                "latency_ms": {
                    name: 1000 * value for name, value in compute_percentiles(self.latencies[batch]).items()
                },
                f"{self.unit}_per_s": self.throughput(batch).as_json(),
                "ratio": self.ratio(base, batch).as_json(),
                "interval_coverage": self.throughput(batch).coverage,
                "within_noise": self is not base and not self.ratio(base, batch).excludes(1.0),
                "first_call_s": self.first_call_s[batch],
                "rounds": len(self.rates[batch]),
            }
            for batch in self.rates
        }
        return {
            "name": self.name,
            **({} if self.metric is None else {self.metric.name: self.metric.value}),
            "size_bytes": self.load_info["size_bytes"],
            "load_s": self.load_info["load_s"],
            "peak_memory_bytes": self.peak_memory_bytes,
            "best_batch": self.best_batch,
            "batches": batches,
        }


def check_threads(threads: int | None) -> Hardware:
    """Return the CPU. Raises ConfigError if it has fewer cores than `threads`."""
    hardware = probe_hardware("cpu")
    if threads is not None and threads > hardware.cores:
        raise ConfigError(
            f"--threads {threads} must be <= {hardware.cores}, the cores of this machine",
            f"use --threads {hardware.cores}",
        )
    return hardware


def measure_candidates(
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    should_evaluate: bool,
    say: Callable[[str], None],
    max_rounds: int = 0,
    skip: Callable[[str], None] | None = None,
) -> list[BenchResult]:
    """Time every candidate at every batch size, interleaved, after a warm-up.

    Each candidate runs `rounds` blocks of about `seconds` each. With `max_rounds`, the candidates
    that may yet be the fastest (`find_contenders`) run further rounds, up to that many in all,
    until one is left.

    Each runs in its own process, pinned to the first `threads` cores, or those of the candidate; only one computes at a time.
    A candidate that cannot be loaded is skipped with a message to `skip`, or else to `say`. Raises
    CheckpointError if none is left.
    """
    timed_models: list[tuple[BenchResult, ModelProcess]] = []
    say(describe_effort(len(candidates), len(batches), rounds, seconds))
    with ExitStack() as stack:
        for number, candidate in enumerate(candidates, 1):
            holder = stack.enter_context(ModelProcess(candidate.name, candidate.request, candidate.threads or threads))
            try:
                result = BenchResult(candidate.name, holder.load())
                for batch in batches:
                    result.first_call_s[batch] = holder.ask({"warm": batch})["first_call_s"]
                if should_evaluate:
                    result.metric = BenchMetric(**holder.ask({"metric": True}))
            except CheckpointError as error:
                (skip or say)(f"skipped: {error}")
                continue
            loaded = f"loaded in {result.load_info['load_s']:.2f} s"
            say(f"{number} of {len(candidates)}: {candidate.name}: {loaded}")
            timed_models.append((result, holder))
        if not timed_models:
            raise CheckpointError("nothing could be measured", "see the reasons above")
        for batch_number, batch in enumerate(batches, 1):
            estimate = format_seconds(len(timed_models) * rounds * (seconds + _SPIN_WAIT_S))
            say(f"{batch_number} of {len(batches)}: timing batch {batch}, {rounds} rounds, about {estimate}")
            calls = {
                result.name: holder.ask({"calls": batch, "seconds": seconds})["calls"]
                for result, holder in timed_models
            }
            _time_batch(timed_models, batch, calls, rounds, max_rounds)
        for result, holder in timed_models:
            result.peak_memory_bytes = holder.ask({"memory": True})["peak_memory_bytes"]
    return [result for result, _ in timed_models]


def _time_batch(
    timed_models: list[tuple[BenchResult, ModelProcess]],
    batch: int,
    calls: Mapping[str, int],
    rounds: int,
    max_rounds: int,
) -> None:
    """Time blocks of `calls` of each model at this batch size, in turn; see `measure_candidates`."""
    active_models = timed_models
    for round_number in range(max(rounds, max_rounds)):
        if round_number >= rounds:
            contender_results = find_contenders([result for result, _ in active_models], batch)
            active_models = [(result, holder) for result, holder in active_models if result in contender_results]
            if len(active_models) == 1:
                break
        offset = round_number % len(active_models)
        for result, holder in active_models[offset:] + active_models[:offset]:
            time.sleep(_SPIN_WAIT_S)
            times = holder.ask({"batch": batch, "calls": calls[result.name]})["times"]
            result.latencies.setdefault(batch, []).extend(times)
            result.rates.setdefault(batch, []).append(result.count_units(batch) * len(times) / sum(times))


def describe_effort(num_models: int, num_batches: int, rounds: int, seconds: float) -> str:
    """Return a sentence with the models to measure, and about how long it takes."""
    timing_s = num_models * num_batches * rounds * (seconds + _SPIN_WAIT_S)
    estimate = format_seconds(timing_s + num_models * _LOAD_S)
    return f"measuring {pluralize(num_models, 'model')} at {pluralize(num_batches, 'batch size')}: about {estimate}"


#: Seconds to start the process of a model and to load it.
_LOAD_S = 5.0

#: Seconds that threads of the previous block may spin for work on the core of the next block: 35 ms
#: were seen in ONNX Runtime 1.30.
_SPIN_WAIT_S = 0.1

#: A candidate gets another round only if it may be faster than the leader by more than this factor.
_MIN_SPEEDUP = 1.01


def find_contenders(results: Sequence[BenchResult], batch: int) -> list[BenchResult]:
    """Return the leader at `batch`, and candidates that may be over 1 % faster.

    The interval of their ratio to the leader reaches beyond 1.01 (`compute_median_interval`).
    """
    leader = find_fastest(results, batch)
    return [result for result in results if result is leader or result.ratio(leader, batch).high > _MIN_SPEEDUP]


def find_fastest(results: Sequence[BenchResult], batch: int) -> BenchResult:
    """Return the result with the most images per second among those in every round."""
    max_rounds = max(len(result.rates[batch]) for result in results)
    return max(
        (result for result in results if len(result.rates[batch]) == max_rounds),
        key=lambda result: result.throughput(batch).median,
    )
