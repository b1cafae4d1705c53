"""`eval` of an export: settings of the reading keep the test images, another folder does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from short_runs import trained

from dnntrain.cli.main import main
from dnntrain.inference.evaluate_run import evaluate_run


def write_photos(folder: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_setting_of_the_reading_does_not_select_the_training_images(tmp_path: Path) -> None:
    words = ("data=image_folder", f"data.root={write_photos(tmp_path / 'photos')}", "data.image_size=8")
    trained(tmp_path / "run", *words, "model=mlp", "train.duration=1ep", "train.batch_size=8")
    assert main(["export", str(tmp_path / "run")]) == 0
    export = tmp_path / "run" / "exports" / "safetensors"
    _, expected = evaluate_run(export, [])
    for word in ("data.on_error=skip", "data.decode=full", "data.pipeline=streaming"):
        assert evaluate_run(export, [word]) == ("test", expected)
    other = write_photos(tmp_path / "other", seed=1)
    split, values = evaluate_run(export, [f"data.root={other}", "data.decode=fast"])
    assert (split, values["examples"]) == ("all", 60)


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["full", "fast"])
def test_a_test_image_that_cannot_be_read_is_reported(
    decode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos")
    for part in ("train", "test"):
        (photos / part).mkdir()
        for name in ("a", "b"):
            shutil.copytree(photos / name, photos / part / name)
    for name in ("a", "b"):
        shutil.rmtree(photos / name)
    (photos / "test" / "a" / "0.png").write_text("no picture")
    words = ("data=image_folder", f"data.root={photos}", "data.image_size=8", "data.on_error=skip")
    line = [*words, f"data.decode={decode}", "model=mlp", "train.duration=1ep", "log.report=false"]
    assert main([*line, f"run_dir={tmp_path / 'run'}"]) == 0
    expected = "1 unreadable example was skipped; the first: "
    assert expected in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "59 examples" in captured.out
