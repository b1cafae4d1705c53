"""Who goes on being timed: the fastest, and those that may yet be."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from dnntrain.bench import measure as module
from dnntrain.bench.measure import BenchResult, Candidate, find_contenders, find_fastest, measure_candidates
from dnntrain.pipeline.measure import read_latencies


def timed(name: str, rates: list[float]) -> BenchResult:
    return BenchResult(name, {}, rates={1: rates})


def test_only_those_that_may_be_faster_than_the_leader_go_on() -> None:
    leader = timed("leader", [100.0] * 7)
    slower = timed("slower", [90.0] * 7)
    unsure = timed("unsure", [80.0, 110.0, 97.0, 95.0, 120.0, 90.0, 99.0])
    same = timed("same", [100.5] * 3 + [99.5] * 4)
    assert find_contenders([slower, unsure, leader, same], 1) == [unsure, leader]


def test_the_choice_is_among_those_of_the_last_round() -> None:
    dropped = timed("dropped", [110.0] * 3)
    kept = timed("kept", [112.0] * 3 + [60.0] * 4)
    assert find_fastest([dropped, kept], 1) is kept
    assert dropped.ratio(kept, 1).median == pytest.approx(110 / 112)


def test_a_call_takes_the_time_of_all_its_tokens() -> None:
    """Four texts of 64 tokens at 1024 tokens per second take a quarter of a second."""
    result = BenchResult("gpt", {"unit": "tokens", "units_per_example": 64}, rates={4: [1024.0, 512.0, 2048.0]})
    assert result.call_ms(4).as_json() == [250.0, 125.0, 500.0]
    assert read_latencies(result)[4].value == 250.0


class Clock:
    """A process that takes the time it is told to: seconds of a call, each round."""

    paces: ClassVar[dict[str, list[float]]] = {}

    def __init__(self, name: str, request: Any, threads: int) -> None:
        self.name, self.round = name, 0

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def load(self) -> dict[str, Any]:
        return {"load_s": 0.0, "size_bytes": 1}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if "batch" in request:
            pace = self.paces[self.name]
            self.round += 1
            return {"times": [pace[self.round % len(pace)]]}
        return {"first_call_s": 0.0, "calls": 1, "peak_memory_bytes": 1}


@pytest.mark.slow
def test_rounds_are_added_for_those_that_are_near_and_only_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ModelProcess", Clock)
    monkeypatch.setattr(Clock, "paces", {"slow": [0.2], "swinging": [0.08, 0.12, 0.1], "steady": [0.099]})
    found = measure_candidates(
        [Candidate(name, {}) for name in Clock.paces],
        [1],
        threads=1,
        rounds=3,
        max_rounds=9,
        seconds=1,
        should_evaluate=False,
        say=lambda text: None,
    )
    assert {item.name: len(item.rates[1]) for item in found} == {"slow": 3, "swinging": 9, "steady": 9}
