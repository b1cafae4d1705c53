"""What is taken from the files of a run, and what is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnntrain.report.confusion import encode_png, find_worst_pairs, read_confusion
from dnntrain.report.load_run import read_run
from dnntrain.report.series import Series
from dnntrain.report.untrusted_files import parse_number

MakeRun = Callable[..., Path]


def write_rows(run: Path, *rows: object) -> None:
    (run / "metrics.jsonl").write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def test_values_that_are_not_finite_keep_their_place(make_run: MakeRun) -> None:
    run = make_run()
    write_rows(
        run, *({"step": step, "split": "train", "loss": value} for step, value in enumerate((1.0, "nan", "inf", 0.5)))
    )
    series = read_run(run).get_series("train", "loss")
    assert len(series) == 4
    assert series.get_finite_points() == [(0, 1.0), (3, 0.5)]


def test_a_long_series_keeps_its_extremes_and_counts_what_is_lost() -> None:
    series = Series()
    for step in range(200_000):
        series.add(float(step), 0.0, {70_001: 9.0, 150_003: -9.0}.get(step, math.nan if step % 1000 == 0 else 1.0))
    series.flush()
    assert 5_000 < len(series) < 20_000
    assert max(after - before for before, after in pairwise(series.step)) < 200
    assert (70_001, 9.0) in series.get_finite_points()
    assert (150_003, -9.0) in series.get_finite_points()
    assert list(series.step) == sorted(series.step)
    assert series.not_finite == 200


def test_a_torn_last_line_is_left_out_in_silence(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text('{"step": 1, "split": "val", "loss": 1.0}\n{"step": 2, "split": "val", "lo')
    data = read_run(run)
    assert data.rows == 1
    assert data.notes == ()


def test_damaged_lines_are_counted(make_run: MakeRun) -> None:
    run = make_run()
    write_rows(run, "{", "[]", {"no": "step"}, {"step": "x", "split": "val"}, {"step": 1, "split": "val", "loss": 1.0})
    assert read_run(run).notes == ("4 damaged lines of metrics.jsonl were skipped",)


def test_a_line_without_end_is_skipped(make_run: MakeRun) -> None:
    run = make_run()
    write_rows(run, f'{{"step": 1, "x": "{"y" * 200_000}"}}', {"step": 2, "split": "val", "loss": 1.0})
    assert read_run(run).rows == 1


def test_no_more_than_64_series_are_kept(make_run: MakeRun) -> None:
    run = make_run()
    write_rows(run, {"step": 1, "split": "train", **{f"name{n}": 1.0 for n in range(1000)}})
    assert len(read_run(run).series) == 64


def test_unknown_fields_become_series(make_run: MakeRun) -> None:
    run = make_run()
    write_rows(run, {"step": 1, "split": "train", "weight_norm": 3.5, "flag": True, "tags": [1], "note": "a long text"})
    assert set(read_run(run).series) == {("train", "weight_norm")}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(make_run: MakeRun, tmp_path: Path, data: bytes) -> None:
    for name in ("metrics.jsonl", "result.json", "config.yaml", "evaluation.json", "overrides.txt"):
        (tmp_path / name).write_bytes(data)
    read_run(tmp_path)


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_any_value_is_a_number_or_none(value: object) -> None:
    assert isinstance(parse_number(value), float)


def test_only_two_texts_are_numbers() -> None:
    assert parse_number("inf") == math.inf
    assert math.isnan(parse_number("1.5"))
    assert math.isnan(parse_number(True))


def test_the_worst_pairs_come_first() -> None:
    assert find_worst_pairs([[5, 1, 0], [4, 5, 0], [0, 1, 9]]) == [(4, 1, 0), (1, 0, 1), (1, 2, 1)]


def test_a_matrix_without_names_is_numbered() -> None:
    assert read_confusion({"confusion": [[1, 0], [0, 1]], "class_names": ["only one"]}) == (
        [[1, 0], [0, 1]],
        ["0", "1"],
    )


def test_the_picture_of_a_matrix_is_a_png() -> None:
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(encode_png(2, 1, bytes((255, 0, 0, 0, 0, 255))))) as picture:
        assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 255)]
