"""Which model of a pipeline to take: the best ones, bounds, intervals, and certificates of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.pipeline.answer import answer_pipeline
from dnntrain.pipeline.measure import compute_identity
from dnntrain.pipeline.points import (
    Measured,
    Measurements,
    Point,
    choose_point,
    find_pareto,
    format_bound,
    parse_latency,
    read_measurements,
)
from dnntrain.pipeline.prepare import Pipeline
from dnntrain.pipeline.stage_runs import StageRun
from dnntrain.pipeline.verify import Check, as_json, read_certificate
from dnntrain.protocols import MetricInfo
from dnntrain.utils.sealed_json import write_sealed_json

ACCURACY = MetricInfo("accuracy", higher_is_better=True, unit="%")


def make_point(name: str, accuracy: float, latency: float, source: str | None = None) -> Point:
    interval = Measured(latency, 0.9 * latency, 1.1 * latency)
    metric = Measured(accuracy, accuracy - 0.01, accuracy + 0.01)
    return Point(name, name, source, "float32", name, metric, {1: interval, 64: interval.scale(20)}, 1000, 10.0, 20.0)


def make_measurements(*points: Point) -> Measurements:
    return Measurements(ACCURACY, points, {"cpu": "a", "threads": 2}, "id")


CHAIN = make_measurements(
    make_point("teacher", 0.95, 8.0),
    make_point("student", 0.94, 2.0, "teacher"),
    make_point("slow", 0.93, 4.0, "student"),
    make_point("quantize", 0.935, 1.8, "student"),
)


def test_the_best_points_are_those_that_no_other_beats():
    assert [point.name for point in find_pareto(CHAIN, 1)] == ["quantize", "student", "teacher"]


def test_of_equal_latencies_only_the_best_point_counts():
    measurements = make_measurements(make_point("a", 0.9, 1.0), make_point("b", 0.92, 1.0))
    assert [point.name for point in find_pareto(measurements, 1)] == ["b"]


@pytest.mark.parametrize(("bound_ms", "name"), [(100, "teacher"), (8, "student"), (2.2, "student"), (2.1, "quantize")])
def test_the_most_accurate_model_within_the_bound_is_taken(bound_ms, name):
    assert choose_point(CHAIN, bound_ms, 1).name == name


def test_a_bound_that_nothing_reaches_is_answered_with_the_nearest_and_the_stage_that_lost_it():
    with pytest.raises(ConfigError) as caught:
        choose_point(CHAIN, 0.5, 1)
    text = str(caught.value)
    assert "the nearest is quantize with 1.8 ms" in text
    assert "The stage quantize lost it: quantize is only 1.11 times faster than student." in text
    assert "--max-latency 1.98ms" in text
    assert choose_point(CHAIN, parse_latency("1.98ms"), 1).name == "quantize"


@pytest.mark.parametrize("latency", [0.123456, 1.0, 1.2341, 99.95, 1234.5])
def test_the_nearest_bound_can_be_reached(latency):
    assert 1 - 1e-9 <= parse_latency(format_bound(latency)) / latency <= 1.02


def test_an_unmeasured_batch_is_refused_with_those_that_were_measured():
    with pytest.raises(ConfigError, match="measured: 1, 64"):
        choose_point(CHAIN, 10, 2)


@pytest.mark.parametrize(("text", "milliseconds"), [("2ms", 2), ("500us", 0.5), ("0.01s", 10), ("1.5 ms", 1.5)])
def test_a_latency_has_a_unit(text, milliseconds):
    assert parse_latency(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize("text", ["2", "ms", "-1ms", "0ms", "2min"])
def test_another_text_is_not_a_latency(text):
    with pytest.raises(ConfigError, match="as in --max-latency 2ms"):
        parse_latency(text)


def write_pipeline_folder(folder: Path) -> None:
    write_sealed_json(folder / "measurements.json", CHAIN.as_json())
    write_sealed_json(folder / "pipeline.json", {"schema": 1, "name": "<chain>", "runs": [], "digest": "abc"})


def test_measurements_are_read_back(tmp_path):
    write_pipeline_folder(tmp_path)
    assert read_measurements(tmp_path) == CHAIN
    file = tmp_path / "measurements.json"
    file.write_text(file.read_text().replace("0.95", "0.99"))
    with pytest.raises(CheckpointError, match="altered"):
        read_measurements(tmp_path)


def test_the_page_shows_each_model_and_escapes_names(tmp_path):
    write_pipeline_folder(tmp_path)
    answer = json.loads(answer_pipeline(tmp_path, None, "2.2ms", 1, True))
    assert answer["take"]["name"] == "student"
    page = (tmp_path / "report.html").read_text()
    assert "&lt;chain&gt;" in page
    assert "<chain>" not in page
    for point in CHAIN.points:
        assert page.count(f"<bdi>{point.name}</bdi>") == 3  # in the table and in both pictures
    assert "95.00% (94.00% to 96.00%)" in page
    assert "4.44×" in page  # 8 ms / 1.8 ms


def test_a_page_needs_no_torch(tmp_path):
    write_pipeline_folder(tmp_path)
    code = (
        "import sys; from pathlib import Path; from dnntrain.pipeline.answer import answer_pipeline; "
        f"answer_pipeline(Path({str(tmp_path)!r}), None, None, 1, False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("words", [("--max-latency", "2ms"), ("--batch", "64")])
def test_a_bound_needs_a_pipeline(tmp_path, words, capsys):
    (tmp_path / "config.yaml").write_text("")
    assert main(["report", str(tmp_path), *words]) == 2
    assert "applies to the folder of a pipeline" in capsys.readouterr().err


def test_an_unfinished_pipeline_has_no_answer(tmp_path):
    write_sealed_json(tmp_path / "pipeline.json", {"schema": 1})
    with pytest.raises(ConfigError, match="not finished"):
        answer_pipeline(tmp_path, None, None, 1, False)


def write_certificate_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    files = {"model.onnx": compute_file_digest(folder / "model.onnx")}
    write_sealed_json(folder / "certificate.json", {"schema": 1, "files": files})
    return folder


def test_a_certificate_is_read_by_its_file_or_its_folder(tmp_path):
    folder = write_certificate_folder(tmp_path / "made")
    assert read_certificate(folder) == read_certificate(folder / "certificate.json")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("model.onnx", b"modem", "model.onnx is damaged or was altered"),
        ("model.onnx", None, "model.onnx is missing"),
        ("certificate.json", b'{"schema": 1, "files": {}}', "was altered"),
        ("certificate.json", b"{", "is damaged"),
    ],
)
def test_an_altered_copy_does_not_hold(tmp_path, name, data, text):
    folder = write_certificate_folder(tmp_path / "made")
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=text):
        read_certificate(folder)


def test_a_certificate_names_files_of_its_folder_only(tmp_path):
    folder = write_certificate_folder(tmp_path / "made")
    (tmp_path / "other").write_bytes(b"other")
    files = {"../other": compute_file_digest(tmp_path / "other")}
    write_sealed_json(folder / "certificate.json", {"schema": 1, "files": files})
    with pytest.raises(CheckpointError, match="not a file of its folder"):
        read_certificate(folder)


def test_only_a_failed_check_fails():
    checks = [Check("code", "differs", "x"), Check("files", "same", "y")]
    assert as_json(checks)["verified"]
    assert not as_json([*checks, Check("accuracy", "failed", "z")])["verified"]


def test_a_share_of_one_seed_has_wilsons_interval():
    from dnntrain.pipeline.measure import compute_wilson_interval

    # Wilson's interval for 81 of 263, as in Newcombe (1998), table I.
    interval = compute_wilson_interval(81 / 263, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert compute_wilson_interval(1.0, 100).low == pytest.approx(0.9630, abs=5e-5)


def test_other_metrics_have_a_bootstrap_interval():
    from dnntrain.pipeline.measure import estimate_metric
    from dnntrain.prove.test_set_error import ExampleSums

    generator = np.random.default_rng(1)
    sums = np.stack([generator.normal(2.0, 1.0, 400), np.ones(400)], axis=1)
    interval = estimate_metric([ExampleSums(sums, np.arange(400), 400)], None)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 1.0 / 20, rel=0.15)


def test_measurements_belong_to_their_runs_and_their_machine(tmp_path):
    def identify(key="a", folder="student-a", machine=4, train_s=1.0, weights="w"):
        run = StageRun("student", 0, (), {}, key, tmp_path / folder, {})
        run.folder.mkdir(exist_ok=True)
        write_sealed_json(run.folder / "result.json", {"digest": weights, "train_s": train_s})
        pipeline = Pipeline(None, tmp_path, (run,), "code", None)
        return compute_identity(pipeline, {"student": [run.folder]}, {"threads": machine})

    assert identify() == identify()
    changes = ({"key": "b"}, {"folder": "student-b"}, {"machine": 8}, {"train_s": 2.0}, {"weights": "v"})
    assert len({identify(), *(identify(**change) for change in changes)}) == 6
