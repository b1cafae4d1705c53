"""Exports are checked before they are used: checksums, programs, data outside the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dnntrain.cli.main import main

Capture = pytest.CaptureFixture[str]
Folder = Callable[..., Path]

FILES = {"safetensors": "model.safetensors", "pt2": "model.pt2", "onnx": "model.onnx"}


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_a_truncated_file_is_refused_with_exit_code_5(name: str, file: str, alone: Folder, capsys: Capture) -> None:
    folder = alone(name)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    assert main(["eval", str(folder)]) == 5
    assert "damaged or was altered" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_one_altered_byte_is_noticed(name: str, file: str, alone: Folder) -> None:
    folder = alone(name)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert main(["eval", str(folder)]) == 5
    assert main(["predict", str(folder), str(folder)]) == 5


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 99}', "not json"])
def test_a_damaged_manifest_is_refused(text: str, alone: Folder) -> None:
    folder = alone("onnx")
    (folder / "manifest.json").write_text(text)
    assert main(["eval", str(folder)]) == 5


def test_a_missing_file_is_refused(alone: Folder) -> None:
    folder = alone("onnx")
    (folder / "model.onnx").unlink()
    assert main(["eval", str(folder)]) == 5


def test_a_manifest_that_names_files_elsewhere_is_refused(alone: Folder) -> None:
    folder = alone("onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"../../etc/passwd": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["eval", str(folder)]) == 5


def test_a_program_without_its_manifest_is_loaded_only_where_it_is_trusted(
    alone: Folder, tmp_path: Path, capsys: Capture
) -> None:
    file = shutil.copy(alone("pt2") / "model.pt2", tmp_path / "stray.pt2")
    assert main(["eval", str(file)]) == 5
    assert "--trust" in capsys.readouterr().err
    assert main(["eval", str(file), "--trust"]) == 0


def test_a_program_that_is_no_archive_is_refused_even_where_trusted(tmp_path: Path) -> None:
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    assert main(["eval", str(tmp_path / "junk.pt2"), "--trust"]) == 5


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_onnx_weights_outside_the_folder_are_refused(
    location: str, exports: Folder, tmp_path: Path, capsys: Capture
) -> None:
    import onnx

    model = onnx.load(str(exports("onnx") / "model.onnx"))
    tensor = model.graph.initializer[0]
    (tmp_path / "secret.bin").write_bytes(tensor.raw_data)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert main(["eval", str(folder / "model.onnx")]) == 5
    assert "outside the model's folder" in capsys.readouterr().err


def test_an_onnx_file_of_others_is_refused_with_the_reason(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "other.onnx").write_bytes(b"\x08\x0a")
    assert main(["eval", str(tmp_path / "other.onnx")]) == 5
    assert "not written by dnntrain" in capsys.readouterr().err
