"""A digit that changes in a file of a run is found before an answer depends on it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import read_value
from dnntrain.report.load_run import read_run
from dnntrain.utils.sealed_json import (
    METRICS_SEAL,
    check_rows,
    compute_file_digest,
    read_intact_json,
    read_sealed_json,
    seal_json,
    write_sealed_json,
)

Capture = pytest.CaptureFixture[str]
WORDS = ["model=mlp", "model.hidden=[4]", "train.max_examples=64", "eval.max_examples=32", "data.val_fraction=0.5"]


def change_digit(file: Path, after: str) -> None:
    """Change the first digit behind the text `after`, as one flipped bit does."""
    text = file.read_text()
    place = next(index for index in range(text.index(after), len(text)) if text[index].isdigit())
    file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def make_ended_run(folder: Path) -> Path:
    """Write the files of a finished run that figures are read from."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "split": "val", "loss": 1.5}\n')
    digest = hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
    result = {"status": "done", "metric": "accuracy", "best": 0.25, "examples_per_s": 10.0, METRICS_SEAL: digest}
    write_sealed_json(folder / "result.json", result)
    write_sealed_json(folder / "evaluation.json", {"accuracy": 0.75})
    return folder


def test_a_report_names_the_file_that_was_altered(tmp_path: Path) -> None:
    for name, place in (("result.json", "best"), ("evaluation.json", "accuracy"), ("metrics.jsonl", "loss")):
        run = make_ended_run(tmp_path / name)
        assert read_run(run).notes == ()
        change_digit(run / name, place)
        with pytest.raises(CheckpointError, match=name):
            read_run(run)
        (run / name).unlink()
        assert read_run(run).notes == ()


def test_a_verdict_reads_no_altered_value(tmp_path: Path) -> None:
    run = make_ended_run(tmp_path / "run")
    accuracy = MetricInfo("accuracy", higher_is_better=True)
    assert read_value(run, accuracy, "test") == 0.75
    change_digit(run / "evaluation.json", "accuracy")
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        read_value(run, accuracy, "test")
    change_digit(run / "result.json", "examples_per_s")
    with pytest.raises(CheckpointError, match=r"result\.json"):
        read_value(run, MetricInfo("examples_per_s", higher_is_better=True, unit="1/s"), "test")


def test_rows_of_a_running_run_are_compared_with_its_last_checkpoint(tmp_path: Path) -> None:
    run = make_ended_run(tmp_path / "run")
    (run / "result.json").unlink()
    rows = run / "metrics.jsonl"
    saved = {"bytes": rows.stat().st_size, "sha256": compute_file_digest(rows)}
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "checkpoints" / "LAST").write_text("step-1\n")
    write_sealed_json(run / "checkpoints" / "step-1" / "manifest.json", {"values": {"metrics": saved}})
    with rows.open("a") as file:
        file.write('{"step": 2, "split": "val", "loss": 1.25}\n{"step": 3, "sp')
    assert read_run(run).notes == ()
    change_digit(rows, "loss")
    assert "do not match" in read_run(run).notes[0]


def test_the_digest_of_a_beginning_needs_all_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    assert compute_file_digest(file) is None
    file.write_bytes(b"abcdef")
    assert compute_file_digest(file, 3) == hashlib.sha256(b"abc").hexdigest()
    assert compute_file_digest(file, 7) is None
    check_rows(file, None, 7)
    with pytest.raises(CheckpointError, match="rows"):
        check_rows(file, hashlib.sha256(b"abcdef").hexdigest(), 7)


def test_an_object_survives_another_order_of_its_keys_but_no_other_value(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    value = {"b": [1, 2.5, "é", float("nan")], "a": {"path": "\udcff"}, "digest": None}
    write_sealed_json(file, value)
    read = read_sealed_json(file)
    assert read == {**value, "b": [1, 2.5, "é", "nan"]}
    file.write_text(json.dumps(dict(reversed(seal_json(read).items()))))
    assert read_sealed_json(file) == read
    change_digit(file, '"b"')
    assert read_intact_json(file) == {}


@pytest.mark.slow
def test_a_run_resumes_from_the_rows_that_its_checkpoint_knows(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    words = [*WORDS, "log.report=false", "checkpoint.every=1step", f"run_dir={run}"]
    assert main([*words, "train.duration=2step"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result[METRICS_SEAL] == compute_file_digest(run / "metrics.jsonl")
    assert read_sealed_json(run / "evaluation.json")["split"] == "test"
    again = [*words, "train.duration=2step"]
    longer = [*words, "train.duration=4step"]

    def run_damaged(name: str, change: Callable[[Path], object], command: list[str]) -> tuple[int, str]:
        shutil.copytree(run, tmp_path / "copy")
        change(run / name)
        capsys.readouterr()
        code = main(command)
        text = capsys.readouterr().err
        shutil.rmtree(run)
        (tmp_path / "copy").rename(run)
        return code, text

    for name, after, command in (
        ("metrics.jsonl", "loss", longer),
        ("metrics.jsonl", "loss", again),
        ("result.json", "value", again),
    ):
        code, text = run_damaged(name, lambda file, after=after: change_digit(file, after), command)  # type: ignore[misc]
        assert code == 5, text
        assert name in text
        assert run_damaged(name, Path.unlink, command)[0] == 0
    assert main(longer) == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert main(longer) == 0
