"""Exports are checked before they are used: checksums, programs, data outside the folder."""

from __future__ import annotations

import json
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dnntrain.cli.main import main
from dnntrain.export.manifest import read_manifest, write_manifest

Capture = pytest.CaptureFixture[str]
Folder = Callable[..., Path]

FILES = {"safetensors": "model.safetensors", "pt2": "model.pt2", "onnx": "model.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_a_truncated_file_is_refused_with_exit_code_5(name: str, file: str, alone: Folder, capsys: Capture) -> None:
    folder = alone(name)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    assert main(["eval", str(folder)]) == 5
    assert "damaged or was altered" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_one_altered_byte_is_noticed(name: str, file: str, alone: Folder) -> None:
    folder = alone(name)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert main(["eval", str(folder)]) == 5
    assert main(["predict", str(folder), str(folder)]) == 5


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_program_without_its_manifest_is_loaded_only_where_it_is_trusted(
    alone: Folder, tmp_path: Path, capsys: Capture
) -> None:
    file = shutil.copy(alone("pt2") / "model.pt2", tmp_path / "stray.pt2")
    assert main(["eval", str(file)]) == 5
    assert "--trust" in capsys.readouterr().err
    assert main(["eval", str(file), "--trust"]) == 0


class Mark:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt2", "pt2_int8", "pt2_cuda", "aoti", "auto"])
def test_a_program_of_a_stranger_with_a_manifest_of_its_own_does_not_run(
    name: str, exports: Folder, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    foreign = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    folder = foreign / "exports" / name
    folder.mkdir(parents=True)
    inner = folder / "part" if name == "auto" else folder
    inner.mkdir(exist_ok=True)
    file = inner / ("model_aoti.pt2" if name == "aoti" else "model.pt2")
    file.write_bytes(pickle.dumps(Mark(tmp_path / "mark")))
    manifest = replace(read_manifest(exports("safetensors")), details={"choices": {"1": "part"}})
    write_manifest(inner, replace(manifest, format="pt2" if name == "auto" else name), [file.name])
    if name == "auto":
        write_manifest(folder, replace(manifest, format="auto"), ["part/manifest.json", f"part/{file.name}"])
    for path in (folder, file):
        assert main(["eval", str(path)]) == 5
        assert "--trust" in capsys.readouterr().err
        assert main(["predict", str(path), str(tmp_path)]) == 5
        assert main(["bench", str(path)]) == 5
    words = ["--runtimes=eager_fp32", "--rounds=1", "--seconds=0.01", "--batches=1", "--accuracy"]
    assert main(["bench", str(foreign), *words]) == 0
    assert f"{folder} is left out" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def test_a_program_is_compared_with_its_checksum_also_if_it_is_trusted(alone: Folder, capsys: Capture) -> None:
    folder = alone("pt2")
    data = bytearray((folder / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.pt2").write_bytes(data)
    assert main(["eval", str(folder), "--trust"]) == 5
    assert "model.pt2 is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["mean", "class_names", "format", "config", "files"])
def test_a_changed_value_of_a_manifest_is_noticed(key: str, alone: Folder, capsys: Capture) -> None:
    folder = alone("onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    changes = {
        "mean": lambda: manifest["input"].update(mean=[0.25]),
        "class_names": lambda: manifest["class_names"].reverse(),
        "format": lambda: manifest.update(format="onnx_int8"),
        "config": lambda: manifest["config"].update(seed=7),
        "files": lambda: manifest["files"].clear(),
    }
    changes[key]()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["eval", str(folder)]) == 5
    assert "manifest.json is damaged or was altered" in capsys.readouterr().err


def test_a_manifest_must_list_the_model_file(alone: Folder, capsys: Capture) -> None:
    folder = alone("safetensors")
    write_manifest(folder, read_manifest(folder), ["config.json"])
    assert main(["eval", str(folder)]) == 5
    assert "has no checksum of model.safetensors" in capsys.readouterr().err


def test_a_program_that_is_no_archive_is_refused_even_where_trusted(tmp_path: Path) -> None:
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    assert main(["eval", str(tmp_path / "junk.pt2"), "--trust"]) == 5


def write_archive(file: Path, compression: int = zipfile.ZIP_STORED, content: bytes = b"{}") -> bytearray:
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/extra/dnntrain.json", content)
    return bytearray(file.read_bytes())


def test_a_small_archive_of_many_bytes_is_not_unpacked(tmp_path: Path, capsys: Capture) -> None:
    write_archive(tmp_path / "model.pt2", zipfile.ZIP_DEFLATED, bytes(2**26))
    assert (tmp_path / "model.pt2").stat().st_size < 10**5
    tracemalloc.start()
    assert main(["eval", str(tmp_path / "model.pt2")]) == 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25
    assert "files inside it are compressed" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 99)])
def test_an_encrypted_archive_and_one_of_an_unknown_method_are_damaged(
    place: int, value: int, tmp_path: Path, capsys: Capture
) -> None:
    data = write_archive(tmp_path / "model.pt2")
    # The flags and the method of the only file, in its own header and in the list of files.
    for start in (0, data.index(b"PK\x01\x02") + 2):
        data[start + place] = value
    (tmp_path / "model.pt2").write_bytes(data)
    assert main(["eval", str(tmp_path / "model.pt2")]) == 5
    assert "this is a bug" not in capsys.readouterr().err


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_changed_byte_of_a_lone_onnx_file_is_noticed(exports: Folder, tmp_path: Path) -> None:
    data = (exports("onnx") / "model.onnx").read_bytes()
    file = tmp_path / "lone.onnx"
    file.write_bytes(data)
    assert main(["eval", str(file)]) == 0
    for place in range(len(data) // 16, len(data), len(data) // 8):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert main(["eval", str(file)]) == 5


def test_a_changed_byte_of_a_lone_program_is_noticed(exports: Folder, tmp_path: Path) -> None:
    data = (exports("pt2") / "model.pt2").read_bytes()
    file = tmp_path / "lone.pt2"
    for place in range(len(data) // 16, len(data), len(data) // 8):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert main(["eval", str(file), "--trust"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "eval", "bench"])
@pytest.mark.parametrize(
    ("format_name", "change", "text"),
    [
        ("onnx", {"input": (1, 16, 16)}, "its manifest states inputs [1, 16, 16], which the model does not take"),
        ("openvino", {"input": (1, 16, 16)}, "its manifest states inputs [1, 16, 16], which the model does not take"),
        ("onnx", {"names": ("zero", "one")}, "do not fit an output of the shape [10]"),
        ("safetensors", {"names": ("zero", "one")}, "do not fit an output of the shape [10]"),
        ("onnx", {"names": ("zero", "one"), "output": (2,)}, "its manifest states outputs [2]; the model has [10]"),
    ],
)
def test_a_sealed_manifest_of_another_model_is_refused(
    format_name: str, change: dict[str, Any], text: str, command: str, alone: Folder, tmp_path: Path, capsys: Capture
) -> None:
    """Checksums say that nothing was damaged, not that model and manifest belong together."""
    if format_name == "openvino":
        pytest.importorskip("openvino")
    if command == "bench" and "output" in change:
        pytest.skip("bench compares the names with the data first")
    folder = alone(format_name)
    manifest = read_manifest(folder)
    spec = manifest.spec
    names = change.get("names", spec.targets.names)
    spec = replace(
        spec,
        inputs=replace(spec.inputs, shape=change.get("input", spec.inputs.shape)),
        targets=replace(spec.targets, names=names),
        output=replace(spec.output, names=names, shape=change.get("output", spec.output.shape)),
    )
    write_manifest(folder, replace(manifest, spec=spec), list(manifest.files))
    Image.new("L", (8, 8)).save(tmp_path / "digit.png")
    words = {"predict": [str(tmp_path / "digit.png")], "eval": [], "bench": ["--seconds=0.01", "--rounds=3"]}[command]
    assert main([command, str(folder), *words]) == 5
    assert text in capsys.readouterr().err
