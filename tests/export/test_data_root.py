"""An export does not hold the path of its data; inside its run it is evaluated on them all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_files import write_images

from dnntrain.cli.main import main

LINE = ("data=image_folder", "data.image_size=8", "debug=fast", "log.report=false")


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["safetensors", "pt2"])
def test_an_export_ships_no_path_and_finds_the_data_of_its_run(
    format_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, run = tmp_path / "secret" / "photos", tmp_path / "run"
    trust = ["--trust"] if format_name == "pt2" else []  # it is a program
    write_images(photos, count=60)
    assert main([*LINE, f"data.root={photos}", f"run_dir={run}", "--quiet"]) == 0
    assert main(["export", str(run), "--format", format_name]) == 0
    export = run / "exports" / format_name
    for file in export.rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes(), file
    assert main(["eval", str(export), *trust]) == 0
    # Elsewhere the data is named on the line.
    shutil.move(export, tmp_path / "given")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "given"), *trust]) == 3
    assert "set data.root=FOLDER" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "given"), f"data.root={photos}", *trust]) == 0
