"""`dnntrain explain RUN`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rank_pool import Pool

from dnntrain import train
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.explain.explain_model import explain_model
from dnntrain.explain.insertion import CurveSet
from dnntrain.explain.map_checks import MapMeasurements
from dnntrain.explain.map_set import MapSet
from dnntrain.explain.map_share import MapShare, decode_maps, encode_maps
from dnntrain.explain.method import Aim
from dnntrain.explain.randomization import Randomization
from dnntrain.explain.work import ExplainOptions
from dnntrain.report.load_run import read_run
from dnntrain.report.page import render_run
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.world import World
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


def test_a_file_that_explain_did_not_write_is_kept(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    before = (short_run / "config.json").read_text()
    assert main(["explain", str(short_run), "--path", str(short_run / "config.html")]) == 2
    assert "which explain did not write" in capsys.readouterr().err
    assert (short_run / "config.json").read_text() == before
    (tmp_path / "page.html").write_text("<title>my site</title>")
    assert main(["explain", str(short_run), "--path", str(tmp_path / "page.html")]) == 2
    assert "is not a page of dnntrain" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one_process(
    short_run: Path, tmp_path: Path, capsys: Capture, pool: Pool
) -> None:
    words = ("--count", "3", "--path")
    alone = explain(capsys, str(short_run), *words, str(tmp_path / "alone.html"))
    outcome = pool.call({"do": "main", "words": ["explain", str(short_run), *words, str(tmp_path / "both.html")]}, 2)
    assert outcome.error == ""
    assert outcome.result == {"exit_code": 0}
    both = json.loads((tmp_path / "both.json").read_text())
    for name in ("maps", "shown", "other_maps", "layers", "blame", "embedding"):
        assert both[name] == alone[name]


def test_maps_pass_between_ranks_unchanged() -> None:
    torch.manual_seed(0)
    curves = [
        {"map": torch.rand(2, 5, dtype=torch.float64)},
        {"center": torch.rand(2, 5)},
        {"insertion": torch.rand(2, 3)},
    ]
    for randomization in (None, Randomization(("head", "stem"), torch.rand(2, 2), torch.rand(3, 2))):
        measured = MapMeasurements(CurveSet(*curves), torch.rand(2), randomization)
        aim = Aim(torch.tensor([1, 0]), torch.ones(2))
        maps = MapSet(torch.rand(2, 3, 4, 4), torch.rand(2, 2), aim, torch.rand(2, 4, 4), measured)
        again = decode_maps(encode_maps(maps), maps.inputs)
        assert torch.equal(again.maps, maps.maps)
        assert torch.equal(again.outputs, maps.outputs)
        assert torch.equal(again.aim.outputs, maps.aim.outputs)
        assert torch.equal(again.measured.stability, measured.stability)
        assert vars(again.measured.curves).keys() == vars(measured.curves).keys()
        assert torch.equal(again.measured.curves.insertion["map"], curves[0]["map"])
        assert torch.equal(again.measured.curves.random_areas["insertion"], curves[2]["insertion"])
        found = again.measured.randomization
        assert (found is None) == (randomization is None)
        if found is not None and randomization is not None:
            assert found.layers == randomization.layers
            assert torch.equal(found.entropies, randomization.entropies)


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
    with pytest.raises(ConfigError, match="share the maps"):
        explain_model(run, (), ExplainOptions(), False, print, MapShare(world=World(0, 2, 0)))


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
