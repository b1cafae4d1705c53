"""A run does not fill a folder that holds data."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain.errors import ConfigError
from dnntrain.run.directory import RunDirectory, lock_folder


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "file",
    [
        "cats/1.jpg",
        "train/cats/1.PNG",
        "1.webp",
        "train-images-idx3-ubyte.gz",
        "MNIST/raw/t10k-labels-idx1-ubyte",
        "cifar-10-batches-bin/data_batch_1.bin",
        "arrays/train.npz",
    ],
)
def test_a_folder_of_data_is_rejected_and_stays_as_it_is(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "photos"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(b"")
    before = list_files(folder)
    with pytest.raises(ConfigError) as caught:
        RunDirectory.open(str(folder), "run")
    assert f"photos holds data: {file}" in str(caught.value)
    assert "run_dir=runs/photos" in str(caught.value)
    with pytest.raises(ConfigError, match="holds data"), lock_folder(folder):
        pass
    assert list_files(folder) == before


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["notes.txt", "net.py", "job/slurm-1.out"],
        # An earlier run with its pictures, and a run that was killed before it wrote anything.
        ["config.yaml", "curves.png", "exports/onnx/model.onnx"],
        [".lock", "log.txt", "checkpoints/step-3/manifest.json"],
        # The folder above runs.
        ["mnist/1/result.json", "mnist/1/curves.png", ".cache/1.png"],
    ],
)
def test_other_folders_are_taken(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    RunDirectory.open(str(tmp_path), "run").close()
    assert (tmp_path / "log.txt").is_file()
