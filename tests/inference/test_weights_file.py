"""The file of the class weights is needed in training, and not by the trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write_images

from dnntrain.cli.main import main

LINE = ("data=image_folder", "data.image_size=8", "debug=fast", "log.report=false", "--quiet")


@pytest.mark.slow
def test_a_model_is_used_without_the_file_of_its_class_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, photos, run = tmp_path / "weights.csv", tmp_path / "photos", tmp_path / "run"
    write_images(photos, count=60)
    names = sorted(folder.name for folder in photos.iterdir())
    weights.write_text("class,weight\n" + "".join(f"{name},{number + 1}\n" for number, name in enumerate(names)))
    words = [*LINE, f"data.root={photos}", f"task.class_weights={weights}"]
    assert main([*words, f"run_dir={run}"]) == 0
    weights.unlink()
    assert main(["eval", str(run)]) == 0
    assert main(["export", str(run), "--format", "safetensors"]) == 0
    export = run / "exports" / "safetensors"
    for file in export.iterdir():
        assert b"weights.csv" not in file.read_bytes(), file
    assert main(["predict", str(export), str(photos)]) == 0
    capsys.readouterr()
    assert main([*words, f"run_dir={tmp_path / 'other'}"]) == 2
    assert f"task.class_weights={weights}: {weights} does not exist" in capsys.readouterr().err
