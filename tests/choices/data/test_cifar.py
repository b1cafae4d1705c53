"""CIFAR's binary files are read; its pickles only where their checksum is the published one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_files import refusal

from dnntrain.choices.data import cifar10, cifar100
from dnntrain.choices.data.cifar10 import Cifar10
from dnntrain.choices.data.cifar100 import Cifar100


def write_binary(folder: Path, known: object, count: int = 12) -> np.ndarray:
    """Files of `count` records each; the pixels of the first."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    first = None
    for name in (*known.train_files, *known.test_files):  # type: ignore[attr-defined]
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = np.repeat((np.arange(count) % 10).astype(np.uint8)[:, None], known.label_bytes, axis=1)  # type: ignore[attr-defined]
        np.concatenate([labels, pixels], axis=1).tofile(folder / name)
        first = pixels if first is None else first
    assert first is not None
    return first


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_the_binary_version_of_cifar10_is_read(tmp_path: Path, below: str) -> None:
    pixels = write_binary(tmp_path / "root" / below, cifar10.SPEC)
    dataset = Cifar10(root=str(tmp_path / "root")).build()
    assert (len(dataset.train), len(dataset.test), dataset.inputs.shape) == (60, 12, (3, 32, 32))
    assert (dataset.train.read(5).numpy().reshape(-1) == pixels[5]).all()
    assert dataset.train.labels[:12].tolist() == [*range(10), 0, 1]


def test_the_fine_label_of_cifar100_is_the_class(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    write_binary(folder, cifar100.SPEC)
    records = np.fromfile(folder / "train.bin", dtype=np.uint8).reshape(-1, 3074)
    records[:, 1] += 90
    records.tofile(folder / "train.bin")
    dataset = Cifar100(root=str(tmp_path)).build()
    assert dataset.train.labels[:3].tolist() == [90, 91, 92]
    assert len(set(dataset.targets.names)) == 100
    assert list(dataset.targets.names) == sorted(dataset.targets.names)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path / "root", cifar10.SPEC)
    path = tmp_path / "root" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    refusal(Cifar10(root=str(tmp_path / "root")).build, path)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path / "root", cifar10.SPEC)
    path = tmp_path / "root" / "test_batch.bin"
    records = np.fromfile(path, dtype=np.uint8)
    records[0] = 10
    records.tofile(path)
    refusal(Cifar10(root=str(tmp_path / "root")).build, path, "label 10")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path / "root", cifar10.SPEC)
    (tmp_path / "root" / "data_batch_2.bin").unlink()
    refusal(Cifar10(root=str(tmp_path / "root")).build, "data_batch_2.bin")


def test_a_missing_data_set_names_the_fix(tmp_path: Path) -> None:
    error = refusal(Cifar10(root=str(tmp_path)).build, tmp_path)
    assert "data.download=true" in error.hint


def test_a_pickle_with_another_checksum_is_not_opened(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10

    marker = tmp_path / "marker"

    class Touch:
        def __reduce__(self) -> object:
            return Path.touch, (marker,)

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name in (*[name for name, _ in CIFAR10.train_list], "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Touch()))
    refusal(Cifar10(root=str(tmp_path)).build, folder / "data_batch_1", "md5")
    assert not marker.exists()


def test_pickles_with_the_published_checksums_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def written(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    batch = {"data": pixels, "labels": [0, 1, 2, 9]}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", written("data_batch_1", batch)]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", written("test_batch", batch)]])
    meta = {"filename": "batches.meta", "key": "label_names"}
    names = {"label_names": list(cifar10.SPEC.class_names)}
    monkeypatch.setattr(CIFAR10, "meta", {**meta, "md5": written("batches.meta", names)})
    dataset = Cifar10(root=str(tmp_path)).build()
    assert (dataset.train.read(2).numpy().reshape(-1) == pixels[2]).all()
    assert dataset.test.labels.tolist() == [0, 1, 2, 9]
