"""Damaged validation and test images are found before the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import refusal, write_images

from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.cli.main import main
from dnntrain.input import evaluation_check
from dnntrain.input.evaluation_check import check_evaluation_images
from dnntrain.input.prepared import PreparedData


def prepare(root: Path, **options: Any) -> PreparedData:
    dataset = ImageFolder(root=str(root), image_size=8, **options).build()
    assert dataset.val_index is not None
    train = np.setdiff1d(np.arange(len(dataset.train)), dataset.val_index)
    return PreparedData(dataset, None, train, dataset.val_index, np.arange(len(dataset.test)))  # type: ignore[arg-type]


def write_splits(root: Path, count: int = 20) -> dict[str, list[Path]]:
    return {name: write_images(root / name, count=count) for name in ("train", "val", "test")}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_a_damaged_test_image_is_named(tmp_path: Path, pipeline: str) -> None:
    paths = write_splits(tmp_path)
    damage(paths["test"][3])
    data = prepare(tmp_path, pipeline=pipeline)
    refusal(lambda: check_evaluation_images(data, True, False), paths["test"][3])
    assert not any("left out" in note for note in check_evaluation_images(data, False, False))


def test_a_damaged_validation_image_of_a_streamed_split_is_named(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    damage(paths["val"][5])
    data = prepare(tmp_path, pipeline="streaming")
    refusal(lambda: check_evaluation_images(data, True, False), paths["val"][5])


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_a_skipped_image_is_counted_and_named_in_the_plan(tmp_path: Path, pipeline: str) -> None:
    paths = write_splits(tmp_path)
    damage(paths["test"][3])
    notes = check_evaluation_images(prepare(tmp_path, pipeline=pipeline, on_error="skip"), True, True)
    assert f"1 test image cannot be read and is left out: {paths['test'][3]}" in notes
    damage(paths["test"][4])
    data = prepare(tmp_path, pipeline=pipeline, on_error="skip")
    refusal(lambda: check_evaluation_images(data, True, True), "2 of 40 images could not be read; the limit is 1")


def test_a_large_split_is_sampled_and_the_plan_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_splits(tmp_path)
    monkeypatch.setattr(evaluation_check, "_MAX_DECODED", 7)
    notes = check_evaluation_images(prepare(tmp_path, pipeline="streaming"), True, False)
    assert notes == [
        "7 of 40 validation images were decoded as a check before training",
        "7 of 40 test images were decoded as a check before training",
    ]


def test_a_plan_finds_a_damaged_test_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_splits(tmp_path)
    damage(paths["test"][0])
    words = ["plan", "data=image_folder", f"data.root={tmp_path}", "data.image_size=8", "model=mlp"]
    assert main([*words, "model.hidden=[4]", "train.batch_size=8"]) == 3
    assert str(paths["test"][0]) in capsys.readouterr().err
