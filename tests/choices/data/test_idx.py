"""Data sets in the format of MNIST: found where they lie, and refused by name where they are not whole."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import idx_bytes, refusal, write_idx

from dnntrain.choices.data import fashion_mnist, mnist
from dnntrain.choices.data._idx import read_idx
from dnntrain.choices.data.fashion_mnist import FashionMnist
from dnntrain.choices.data.mnist import Mnist

Damage = Callable[[Path], object]


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw", "mnist"])
@pytest.mark.parametrize("gzipped", [True, False])
def test_files_are_found_in_the_root_and_below(tmp_path: Path, below: str, gzipped: bool) -> None:
    write_idx(tmp_path / below, gzipped=gzipped)
    dataset = Mnist(root=str(tmp_path)).build()
    assert (len(dataset.train), len(dataset.test), dataset.inputs.shape) == (40, 20, (1, 6, 5))
    assert dataset.train.labels[:11].tolist() == [*range(10), 0]
    generator = np.random.default_rng(1)
    assert (dataset.train.images[:, 0].numpy() == generator.integers(0, 256, (40, 6, 5), dtype=np.uint8)).all()


def test_the_digest_is_of_the_contents_not_of_the_compression(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", gzipped=True)
    write_idx(tmp_path / "b", gzipped=False)
    write_idx(tmp_path / "c", train=50)
    a, b, c = (Mnist(root=str(tmp_path / name)).build().digest for name in "abc")
    assert a == b
    assert a != c


def test_root_is_before_the_variables_and_those_before_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, train in (("root", 40), ("variable", 50), ("home/dnntrain", 60), ("system", 70)):
        write_idx(tmp_path / name, train=train)
    system = type(fashion_mnist.SPEC)(**{**vars(fashion_mnist.SPEC), "system_folder": tmp_path / "system"})
    monkeypatch.setattr(fashion_mnist, "SPEC", system)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DNNTRAIN_DATA", str(tmp_path / "variable"))
    assert len(FashionMnist(root=str(tmp_path / "root")).build().train) == 40
    assert len(FashionMnist().build().train) == 50
    monkeypatch.delenv("DNNTRAIN_DATA")
    assert len(FashionMnist().build().train) == 60
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nowhere"))
    assert len(FashionMnist().build().train) == 70


def test_a_missing_data_set_names_the_folders_and_the_fix(tmp_path: Path) -> None:
    error = refusal(Mnist(root=str(tmp_path / "nowhere")).build, tmp_path / "nowhere")
    assert "data.download=true" in error.hint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def cut_compressed(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-30])
    path.unlink()


def fake_size(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        cut,
        cut_compressed,
        fake_size,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b"<html>not found</html>"),
        lambda path: path.write_bytes(idx_bytes(np.zeros((2, 2), dtype=np.uint8))),
        lambda path: path.rename(path.with_name(f"{path.name}.gz")),
    ],
    ids=["missing", "cut off", "gzip cut off", "bomb", "empty", "too long", "web page", "other axes", "no gzip"],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Damage) -> None:
    write_idx(tmp_path, gzipped=False)
    damage(tmp_path / name)
    is_gone = name.startswith("train") and damage is Path.unlink
    refusal(Mnist(root=str(tmp_path)).build, "train-images-idx3-ubyte" if is_gone else tmp_path / name)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.arange(40) % 10 + 1, "label 10 of example 9"),
        (np.zeros(40), "one class"),
        (np.arange(39) % 10, "39 labels for the 40 images"),
    ],
    ids=["out of range", "one class", "too few"],
)
def test_labels_that_do_not_fit_are_named(tmp_path: Path, labels: np.ndarray, problem: str) -> None:
    write_idx(tmp_path, gzipped=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(labels.astype(np.uint8)))
    refusal(Mnist(root=str(tmp_path)).build, path, {"one class": "2 classes"}.get(problem, problem))


def test_labels_of_another_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 0x0D, 1]) + struct.pack(">I", 2) + struct.pack(">2f", 0.5, float("nan")))
    refusal(lambda: read_idx(path, 1), path, "magic")


def test_splits_of_different_size_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, gzipped=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 7, 7), dtype=np.uint8)))
    refusal(Mnist(root=str(tmp_path)).build, tmp_path, "6x5", "7x7")


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.exists(), reason="dataset-fashion-mnist is not installed")
def test_the_system_package_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DNNTRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    dataset = FashionMnist().build()
    assert (len(dataset.train), len(dataset.test), dataset.inputs.shape) == (60_000, 10_000, (1, 28, 28))
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    error = refusal(Mnist(root=str(tmp_path), download=True).build, tmp_path, mnist.SPEC.torchvision_class)
    assert "network" in error.hint
