"""An export does not hold the path of its data; inside its run it is evaluated on them all the same."""

from __future__ import annotations

import json
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
    capsys.readouterr()
    assert main(["eval", str(export), *trust]) == 0
    held_out = capsys.readouterr().out.partition(" test: ")[2]
    assert held_out.endswith(", 24 examples\n")
    # Elsewhere the data is named on the line.
    shutil.move(export, tmp_path / "given")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "given"), *trust]) == 3
    assert "set data.root=FOLDER" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "given"), f"data.root={photos}", *trust]) == 0
    # They are the data of the training, so the part that it held out is evaluated.
    assert capsys.readouterr().out.partition(" test: ")[2] == held_out
    write_images(tmp_path / "others", count=30)
    assert main(["eval", str(tmp_path / "given"), f"data.root={tmp_path / 'others'}", *trust]) == 0
    assert capsys.readouterr().out.endswith(", 60 examples\n")


@pytest.mark.slow
def test_an_export_of_a_table_knows_the_data_of_its_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run, export = tmp_path / "table.csv", tmp_path / "run", tmp_path / "export"
    table.write_text("x,y\n" + "".join(f"{row},{'ab'[row % 2]}\n" for row in range(60)))
    words = ["data=table", f"data.file={table}", "data.target=[y]", "model=mlp", "debug=fast", "log.report=false"]
    assert main([*words, f"run_dir={run}", "--quiet"]) == 0
    assert main(["export", str(run), "--format", "safetensors", "--path", str(export)]) == 0
    capsys.readouterr()
    for path in (run, export):
        assert main(["eval", str(path), f"data.file={table.rename(tmp_path / f'{path.name}.csv')}", "--json"]) == 0
        table = tmp_path / f"{path.name}.csv"
    mine, others = map(json.loads, capsys.readouterr().out.splitlines())
    assert mine == {**others, "run": str(run)}
    assert mine["split"] == "test"
