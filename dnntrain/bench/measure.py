"""Times models side by side: each batch size in rounds, in each round every model once, in turning order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dnntrain.bench.statistics import Interval, median_interval, percentiles, ratio_interval
from dnntrain.bench.workers import Holder
from dnntrain.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Candidate:
    """A model to time: its name in the table, and what its process is asked to load."""

    name: str
    request: Mapping[str, Any]


@dataclass(eq=False)
class Timed:
    """What was measured of one candidate.

    latencies   seconds of each call, by batch size
    rates       images per second of each round, by batch size
    """

    name: str
    loaded: dict[str, Any]
    latencies: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    accuracy: float | None = None
    peak_memory_bytes: int = 0
    first_call_s: dict[int, float] = field(default_factory=dict)

    def throughput(self, batch: int) -> Interval:
        return median_interval(self.rates[batch])

    @property
    def best_batch(self) -> int:
        return max(self.rates, key=lambda batch: self.throughput(batch).median)

    def ratio(self, base: Timed, batch: int) -> Interval:
        """Images per second over those of `base`, round by round, of the rounds that both took part in: the first ones."""
        shared = min(len(self.rates[batch]), len(base.rates[batch]))
        return ratio_interval(self.rates[batch][:shared], base.rates[batch][:shared])

    def as_json(self, base: Timed) -> dict[str, Any]:
        batches = {
            str(batch): {
                "latency_ms": {name: 1000 * value for name, value in percentiles(self.latencies[batch]).items()},
                "images_per_s": self.throughput(batch).as_json(),
                "ratio": self.ratio(base, batch).as_json(),
                "within_noise": self is not base and self.ratio(base, batch).holds(1.0),
                "first_call_s": self.first_call_s[batch],
                "rounds": len(self.rates[batch]),
            }
            for batch in self.rates
        }
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "size_bytes": self.loaded["size_bytes"],
            "load_s": self.loaded["load_s"],
            "peak_memory_bytes": self.peak_memory_bytes,
            "best_batch": self.best_batch,
            "batches": batches,
        }


def measure(
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    accuracy: bool,
    say: Callable[[str], None],
    most_rounds: int = 0,
) -> list[Timed]:
    """Times every candidate at every batch size: `rounds` blocks of about `seconds` each, interleaved, after a warm-up.

    With `most_rounds`, those that may yet be the fastest go on, up to that many rounds in all, until one is (`contenders`).

    Each runs in a process of its own, pinned to the first `threads` cores; only one computes at a time. A candidate that cannot be
    loaded is left out, aloud. Raises ConfigError where none is left.
    """
    timed: list[tuple[Timed, Holder]] = []
    with ExitStack() as stack:
        for candidate in candidates:
            holder = stack.enter_context(Holder(candidate.name, candidate.request, threads))
            try:
                found = Timed(candidate.name, holder.load())
                for batch in batches:
                    found.first_call_s[batch] = holder.ask({"warm": batch})["first_call_s"]
                if accuracy:
                    found.accuracy = holder.ask({"accuracy": True})["accuracy"]
            except CheckpointError as error:
                say(f"left out: {error}")
                continue
            say(f"{candidate.name}: loaded in {found.loaded['load_s']:.2f} s")
            timed.append((found, holder))
        if not timed:
            raise ConfigError("nothing could be measured", "see the reasons above")
        for batch in batches:
            calls = {found.name: holder.ask({"calls": batch, "seconds": seconds})["calls"] for found, holder in timed}
            running = timed
            for round_number in range(max(rounds, most_rounds)):
                if round_number >= rounds:
                    kept = contenders([found for found, _ in running], batch)
                    running = [(found, holder) for found, holder in running if found in kept]
                    if len(running) == 1:
                        break
                turn = round_number % len(running)
                for found, holder in running[turn:] + running[:turn]:
                    time.sleep(_SPINNING_S)
                    times = holder.ask({"batch": batch, "calls": calls[found.name]})["times"]
                    found.latencies.setdefault(batch, []).extend(times)
                    found.rates.setdefault(batch, []).append(batch * len(times) / sum(times))
        for found, holder in timed:
            found.peak_memory_bytes = holder.ask({"memory": True})["peak_memory_bytes"]
    return [found for found, _ in timed]


#: How long the threads of the block before may go on spinning in wait of work, on the core of the next: 35 ms seen in ONNX Runtime 1.30.
_SPINNING_S = 0.1

#: A candidate that is this much faster than the leader at most is not worth another round.
_WORTH = 1.01


def contenders(timed: Sequence[Timed], batch: int) -> list[Timed]:
    """The leader at `batch`, and those that may be more than 1 % faster: the 95 % interval of the ratio to it reaches beyond 1.01."""
    leader = fastest(timed, batch)
    return [found for found in timed if found is leader or found.ratio(leader, batch).high > _WORTH]


def fastest(timed: Sequence[Timed], batch: int) -> Timed:
    """The one with the most images per second, of those that took part in every round."""
    most = max(len(found.rates[batch]) for found in timed)
    return max(
        (found for found in timed if len(found.rates[batch]) == most), key=lambda found: found.throughput(batch).median
    )
