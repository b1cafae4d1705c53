"""Folders that cannot be entered, links that lead around, and folders of one class."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from data_files import refusal, write_images

from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.input.data_files import check_image_paths, find_image_files

not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may enter every folder")


@pytest.mark.parametrize("name", ["", "cat", "dog"])
def test_a_folder_without_permission_to_enter_is_named_with_the_command_that_helps(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, count=5)
    locked = tmp_path / name if name else tmp_path
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    hint = f"run: chmod -R u+rX '{locked}'"
    assert refusal(ImageFolder(root=str(tmp_path), image_size=8).build, "no permission").hint == hint
    assert refusal(lambda: find_image_files([tmp_path]), str(locked)).hint == hint


@not_root
@pytest.mark.parametrize("mode", [0o644, 0o000, 0o311])
def test_chmod_without_x_or_r_is_answered_with_the_folder(tmp_path: Path, mode: int) -> None:
    write_images(tmp_path / "data", count=5)
    locked = tmp_path / "data" / "cat"
    locked.chmod(mode)
    try:
        refusal(ImageFolder(root=str(tmp_path / "data"), image_size=8).build, locked)
        refusal(lambda: find_image_files([tmp_path / "data"]), locked)
        if not mode & 0o100:
            refusal(lambda: check_image_paths([locked / "000.png"]), locked)
    finally:
        locked.chmod(0o755)


def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path: Path) -> None:
    write_images(tmp_path, count=20)
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    dataset = ImageFolder(root=str(tmp_path), image_size=8).build()
    names = [source.describe(number) for source in (dataset.train, dataset.test) for number in range(len(source))]
    assert len(names) == 40
    assert not any("again" in name for name in names)


def test_a_model_is_evaluated_on_one_of_its_classes(tmp_path: Path) -> None:
    write_images(tmp_path, classes=("cat",), count=20)
    data = ImageFolder(root=str(tmp_path), image_size=8)
    refusal(data.build, "only one class")
    assert data.build_for_evaluation().targets.names == ("cat",)
