"""The table says how often its intervals enclose the median, and marks ratios that may be 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dnntrain.bench.measure import BenchResult
from dnntrain.bench.tables import format_table, write_files


def result(name: str, rates: list[float]) -> BenchResult:
    load_info: dict[str, Any] = {"load_s": 0.1, "size_bytes": 1000}
    latencies = [1 / rate for rate in rates]
    return BenchResult(name, load_info, {1: latencies}, {1: rates}, first_call_s={1: 0.1})


BASE = [100.0, 101.0, 99.0, 102.0, 98.0, 103.0, 97.0]
FASTER = [2 * rate for rate in BASE]


@pytest.mark.parametrize(("rounds", "text"), [(7, "98.4 % coverage"), (6, "96.9 % coverage")])
def test_enough_rounds_state_the_coverage(rounds: int, text: str) -> None:
    table = format_table([result("a", BASE[:rounds]), result("b", FASTER[:rounds])])
    assert f"In brackets: interval of the median, {text}." in table
    assert "2.00×\n" in table


@pytest.mark.parametrize(("rounds", "text"), [(5, "5 rounds"), (3, "3 rounds"), (1, "1 round,")])
def test_few_rounds_say_what_their_range_covers_and_decide_nothing(rounds: int, text: str) -> None:
    table = format_table([result("a", BASE[:rounds]), result("b", FASTER[:rounds])])
    coverage = {5: "93.8 %", 3: "75 %", 1: "0 %"}[rounds]
    assert f"smallest and largest of {text}" in table
    assert f"enclose the median in {coverage} of cases: use --rounds 6 or more for 95 %." in table
    assert "2.00× (few rounds)" in table


def test_a_ratio_whose_interval_holds_1_is_marked_as_noise() -> None:
    table = format_table([result("a", BASE), result("b", BASE[::-1])])
    assert "1.00× (noise)" in table


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_picture_has_the_format_of_its_name(suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bench{suffix}"
    write_files([result("a", BASE), result("b", FASTER)], None, path)
    assert path.read_bytes().startswith(start)


def test_json_holds_the_coverage() -> None:
    few, many = (result("a", BASE[:count]).as_json(result("b", FASTER[:count])) for count in (3, 7))
    assert few["batches"]["1"]["interval_coverage"] == 0.75
    assert few["batches"]["1"]["within_noise"]
    assert many["batches"]["1"]["interval_coverage"] == 1 - 2 / 2**7
    assert not many["batches"]["1"]["within_noise"]
