"""A run is evaluated on other folders: renamed classes, missing ones, and folders without a test split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_files import write_images
from short_runs import trained

from dnntrain.errors import DataError
from dnntrain.inference.evaluate_run import evaluate_run
from dnntrain.utils.messages import record_messages


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the folder of pictures that it was trained on: cats and dogs without a test split."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "photos", count=40)
    words = (
        "data=image_folder",
        f"data.root={folder / 'photos'}",
        "data.image_size=8",
        "model=mlp",
        "train.duration=1ep",
    )
    trained(folder / "run", *words, "train.batch_size=8")
    return folder / "run", folder / "photos"


@pytest.mark.slow
def test_renamed_classes_are_refused_and_mapped(photo_run: tuple[Path, Path], tmp_path: Path) -> None:
    run, photos = photo_run
    shutil.copytree(photos, tmp_path / "renamed")
    (tmp_path / "renamed" / "cat").rename(tmp_path / "renamed" / "zebra")
    root = f"data.root={tmp_path / 'renamed'}"
    with pytest.raises(DataError, match="zebra"):
        evaluate_run(run, [root])
    _, renamed = evaluate_run(run, [root], "all", renames={"zebra": "cat"})
    _, original = evaluate_run(run, [f"data.root={photos}"], "all")
    assert renamed["examples"] == original["examples"] == 80
    assert renamed["accuracy"] == original["accuracy"]
    assert renamed["loss"] == pytest.approx(original["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_folder_without_a_test_split_is_evaluated_whole_if_it_is_not_the_trained_one(
    photo_run: tuple[Path, Path], tmp_path: Path
) -> None:
    run, photos = photo_run
    write_images(tmp_path, count=7)
    assert evaluate_run(run, [f"data.root={tmp_path}"])[1]["examples"] == 14
    split, values = evaluate_run(run, [f"data.root={photos}"])
    assert split == "test"
    assert values["examples"] < 80


def test_changed_data_are_noticed_and_held_out_images_stay_held_out(
    photo_run: tuple[Path, Path], tmp_path: Path
) -> None:
    run, photos = photo_run
    before = evaluate_run(run, [])[1]["examples"]
    added = photos / "cat" / "added.png"
    shutil.copy(photos / "cat" / "000.png", added)
    messages: list[str] = []
    try:
        with record_messages(messages.append):
            after = evaluate_run(run, [])[1]["examples"]
    finally:
        added.unlink()
    assert after - before in (0, 1)
    assert any("the data have changed since the training" in text for text in messages)
