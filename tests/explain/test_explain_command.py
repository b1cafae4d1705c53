"""`dnntrain explain RUN`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnntrain import train
from dnntrain.cli.main import main
from dnntrain.report.load_run import read_run
from dnntrain.report.page import render_run
from dnntrain.utils.sealed_json import write_sealed_json
from tests.support.short_runs import trained

Capture = pytest.CaptureFixture[str]


def explain(capsys: Capture, *words: str) -> dict[str, object]:
    assert main(["explain", *words, "--json"]) == 0
    values: dict[str, object] = json.loads(capsys.readouterr().out)
    return values


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--examples", "worse"], "did you mean"),
        (["--examples", "photo.png"], "there is no such file"),
        (["--count", "0"], "--count 0"),
        (["--method", "lime"], "--method lime"),
        (["--path", "page.txt"], "must end in .html"),
    ],
)
def test_a_wrong_line_is_refused(words: list[str], reason: str, short_run: Path, capsys: Capture) -> None:
    assert main(["explain", str(short_run), *words]) == 2
    assert reason in capsys.readouterr().err


def test_several_processes_are_refused(short_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert main(["explain", str(short_run)]) == 2
    assert "start it without torchrun: dnntrain explain" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_explained_in_a_page_and_in_numbers(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "page.html"
    values = explain(capsys, str(short_run), "--count", "2", "--path", str(page))
    maps, shown = values["maps"], values["shown"]
    assert isinstance(maps, dict)
    assert isinstance(shown, list)
    assert maps["method"] == "layercam"
    assert len(maps["checks"]) == 7
    assert len(shown) == 4
    assert {row["set"] for row in shown} == {"worst", "uncertain"}
    assert all(row["trusted"] == (not row["faults"]) for row in shown)
    text = page.read_text()
    assert text.count('<figure class="map') == 4
    assert len(text) < 3_000_000
    assert text.count("map doubtful") == sum(not row["trusted"] for row in shown)
    saved = json.loads((tmp_path / "page.json").read_text())
    assert saved["maps"]["checks"] == maps["checks"]
    assert "sha256" in saved
    write_sealed_json(short_run / "explain.json", values)
    report = render_run(read_run(short_run)).decode()
    (short_run / "explain.json").unlink()
    assert "insertion against random maps" in report
    again = explain(capsys, str(short_run), "--count", "2", "--path", str(page))
    assert again["maps"] == maps
    assert again["shown"] == shown


@pytest.mark.slow
def test_an_export_is_explained_by_occlusion_and_compared_by_its_outputs(
    short_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime")
    export = tmp_path / "onnx"
    assert main(["export", str(short_run), "--format", "onnx", "--path", str(export)]) == 0
    capsys.readouterr()
    assert main(["explain", str(export), "--method", "layercam"]) == 2
    assert "use --method occlusion" in capsys.readouterr().err
    words = ("--count", "1", "--examples", "random", "--path", str(tmp_path / "page.html"))
    alone = explain(capsys, str(export), *words)
    assert alone["maps"]["method"] == "occlusion"  # type: ignore[index]
    assert alone["layers"] == []
    assert "outputs only" in str(alone["notes"])
    both = explain(capsys, str(short_run), *words, "--against", str(export))
    comparison, others = both["comparison"], both["other_maps"]
    assert isinstance(comparison, dict)
    assert isinstance(others, dict)
    assert comparison["agreement"] == 1.0
    assert comparison["cka"][-1] == pytest.approx([1.0], abs=1e-4)
    assert others["correlations"] == pytest.approx([1.0], abs=1e-3)
    page = (tmp_path / "page.html").read_text()
    assert "Against the other model" in page
    assert "Which examples are alike?" in page


@pytest.mark.slow
def test_a_table_is_explained_by_the_importance_of_its_columns(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    words = ["data=diabetes", "task=regression", "model=mlp", "train.duration=20ep", "optim.lr=4e-3"]
    train(*words, "log.report=false", f"run_dir={run}", display="quiet")
    values = explain(capsys, str(run))
    importance = values["importance"]
    assert isinstance(importance, list)
    assert len(importance) == 10
    assert {item["column"] for item in importance[:3]} & {"bmi", "s5"}
    assert values["maps"] is None
    assert "Which columns count?" in (run / "explain.html").read_text()
    assert main(["explain", str(run), "--method", "occlusion"]) == 2
    assert "the model reads tables" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_of_labels_plays_the_pointing_game_and_one_of_pixels_is_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    scenes = ("data=scenes", "data.pictures=digits", "data.image_size=16", "data.train_size=60", "data.test_size=20")
    short = ("train.duration=2step", "train.max_examples=null")
    trained(tmp_path / "labels", *scenes, *short, "task=multilabel", "augment.flip.probability=0")
    values = explain(capsys, str(tmp_path / "labels"), "--count", "1", "--examples", "random")
    assert values["calibration"] is None
    shown = values["shown"]
    assert isinstance(shown, list)
    assert isinstance(shown[0]["label"], list)
    trained(tmp_path / "pixels", *scenes, *short, "task=segmentation", "model=unet")
    assert main(["explain", str(tmp_path / "pixels")]) == 2
    assert "does not support this task" in capsys.readouterr().err
