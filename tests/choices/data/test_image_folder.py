"""A folder of class folders: its layouts, what is wrong with some, and what is skipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, refusal, write_images

from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.errors import ConfigError
from dnntrain.input.augment import Augmentation
from dnntrain.input.pipeline import read_evaluation_batches
from dnntrain.input.source import DataSet
from dnntrain.utils.world import World

not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read every file")


def options(root: Path, **changes: Any) -> ImageFolder:
    return ImageFolder(**{"root": str(root), "image_size": 8, **changes})


@pytest.mark.parametrize("test", ["test", "val"])
def test_splits_in_folders_of_their_own(tmp_path: Path, test: str) -> None:
    write_images(tmp_path / "train", count=6)
    write_images(tmp_path / test, count=4)
    dataset = options(tmp_path).build()
    assert (len(dataset.train), len(dataset.test), dataset.targets.names) == (12, 8, ("cat", "dog"))
    assert dataset.train.describe(7) == str(tmp_path / "train" / "dog" / "001.png")
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "train"])
def test_a_fixed_part_is_held_out_where_there_is_no_test_split(tmp_path: Path, below: str) -> None:
    write_images(tmp_path / below, count=100)
    first, again = options(tmp_path).build(), options(tmp_path).build()
    described = [{source.describe(i) for i in range(len(source))} for source in (first.train, first.test)]
    assert sum(map(len, described)) == 200
    assert 25 <= len(described[1]) <= 55  # 0.2 of 200 are 40, with a deviation of 6
    assert not described[0] & described[1]
    assert set(first.test.labels.tolist()) == {0, 1}
    assert [again.test.describe(i) for i in range(25)] == [first.test.describe(i) for i in range(25)]


def test_images_are_found_below_class_folders_and_other_files_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_images(tmp_path / "cat", classes=("deeper",), count=2)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "._000.png").write_text("a hidden companion file")
    (tmp_path / ".cache").mkdir()
    dataset = options(tmp_path).build()
    assert len(dataset.train) + len(dataset.test) == 12


def test_symbolic_links_are_followed_and_loops_left(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "root")
    write_images(tmp_path / "elsewhere", classes=("more",), count=3)
    (tmp_path / "root" / "cat" / "link").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "root" / "dog" / "loop").symlink_to(tmp_path / "root" / "dog")
    dataset = options(tmp_path / "root").build()
    assert len(dataset.train) + len(dataset.test) == len(paths) + 3


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>".replace("/", "∕"), "__proto__", "a\u202eb", "x" * 255, "{}$(ls)"]
)
def test_any_name_of_a_folder_is_a_class_name(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, classes=(name, "other"))
    assert name in options(tmp_path).build().targets.names


def test_a_class_name_that_is_no_text_is_made_printable(tmp_path: Path) -> None:
    write_images(tmp_path)
    try:
        (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"c\xff"))
    except OSError:
        pytest.skip("this file system keeps text names only")
    names = options(tmp_path).build().targets.names
    assert "c\ufffd" in names
    "".join(names).encode("utf-8")


def test_a_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DNNTRAIN_DATA", raising=False)
    error = refusal(ImageFolder().build, "image_folder")
    assert "data.root" in error.hint


def empty_class(root: Path) -> Path:
    (root / "train" / "dog" / "nothing").mkdir(parents=True)
    for path in (root / "train" / "dog").glob("*.png"):
        path.unlink()
    return root / "train" / "dog"


def only_class(root: Path) -> Path:
    (root / "train" / "dog").rename(root / "dog")
    return root / "train"


def no_class(root: Path) -> Path:
    (root / "train").rename(root / "away")
    (root / "train").mkdir()
    return root / "train"


def other_classes(root: Path) -> Path:
    (root / "test" / "dog").rename(root / "test" / "wolf")
    return root / "test"


def zero_bytes(root: Path) -> Path:
    path = root / "train" / "cat" / "002.png"
    path.write_bytes(b"")
    return path


def pipe(root: Path) -> Path:
    path = root / "train" / "cat" / "pipe.png"
    os.mkfifo(path)
    return path


def device(root: Path) -> Path:
    path = root / "train" / "cat" / "zero.png"
    path.symlink_to("/dev/zero")
    return path


def dangling(root: Path) -> Path:
    path = root / "train" / "cat" / "gone.png"
    path.symlink_to(root / "nowhere.png")
    return path


def link_loop(root: Path) -> Path:
    path = root / "train" / "cat" / "self.png"
    path.symlink_to(path)
    return path


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "spoil", [empty_class, only_class, no_class, other_classes, zero_bytes, pipe, device, dangling, link_loop]
)
def test_what_is_wrong_is_named_at_the_start(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    refusal(options(tmp_path).build, spoil(tmp_path))


def test_a_missing_empty_or_plain_root_is_named(tmp_path: Path) -> None:
    refusal(options(tmp_path / "nowhere").build, tmp_path / "nowhere")
    refusal(options(tmp_path).build, tmp_path)
    (tmp_path / "file").write_text("")
    refusal(options(tmp_path / "file").build, tmp_path / "file")


@not_root
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = write_images(tmp_path)[0]
    path.chmod(0)
    refusal(options(tmp_path).build, path)


def test_test_images_that_are_trained_on_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    options(tmp_path).build()
    options(tmp_path).build()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 10 of 10 test images are training images too")


def test_the_digest_changes_with_any_file(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    digests = [options(tmp_path).build().digest]
    paths[0].write_bytes(paths[1].read_bytes())
    digests.append(options(tmp_path).build().digest)
    paths[2].unlink()
    digests.append(options(tmp_path).build().digest)
    write_images(tmp_path, classes=("eel",))
    digests.append(options(tmp_path).build().digest)
    assert len(set(digests)) == 4
    assert options(tmp_path).build().digest == digests[-1]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["resident", "streaming"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_image_ends_the_run_by_name(tmp_path: Path, choice: str, split: str) -> None:
    write_images(tmp_path / "train", count=10)
    write_images(tmp_path / "test", count=10)
    damaged = tmp_path / split / "dog" / "003.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    knobs = options(tmp_path, pipeline=choice, num_workers=1)
    refusal(lambda: seen(knobs, split), damaged)


def seen(knobs: ImageFolder, split: str) -> list[Any]:
    """All batches of one epoch of training, or of an evaluation of the test split."""
    dataset = knobs.build()
    if split == "train":
        return epoch_of(pipeline(dataset, knobs))
    return list(evaluated(dataset, knobs))


def evaluated(dataset: DataSet, knobs: ImageFolder) -> Any:
    return read_evaluation_batches(
        knobs,
        dataset,
        dataset.test,
        np.arange(len(dataset.test)),
        batch_size=7,
        world=World(),
        device="cpu",
        channels_last=False,
    )


def with_damaged(root: Path, count: int) -> list[Path]:
    """100 images of 2 classes to train on and 200 to test, of which `count` each are damaged."""
    train, test = (write_images(root / name, count=100, size=8) for name in ("train", "test"))
    damaged = [path for paths in (train, test) for path in paths[5 :: 200 // max(count, 1)][:count]]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    return damaged


@pytest.mark.slow
def test_skipped_images_are_replaced_counted_and_the_same_in_both_pipelines(tmp_path: Path) -> None:
    damaged = with_damaged(tmp_path, 2)
    feeds, batches = [], []
    for choice, workers in (("resident", 0), ("streaming", 0), ("streaming", 2)):
        knobs = options(tmp_path, on_error="skip", pipeline=choice, num_workers=workers)
        feed = pipeline(knobs.build(), knobs, augmentation=Augmentation(0, 0.5))
        batches.append(epoch_of(feed, epoch=2))
        feeds.append(feed)
    assert_same(batches[0], batches[1])
    assert_same(batches[0], batches[2])
    assert sum(len(batch) for batch in batches[0]) == 200
    for feed in feeds:
        assert set(feed.get_skipped_examples()) == {str(path) for path in damaged[:2]}
        assert all(path in reason for path, reason in feed.get_skipped_examples().items())


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "workers"), [("resident", 0), ("streaming", 0), ("streaming", 2)])
def test_skipped_images_are_left_out_of_an_evaluation(tmp_path: Path, choice: str, workers: int) -> None:
    damaged = with_damaged(tmp_path, 2)
    knobs = options(tmp_path, on_error="skip", pipeline=choice, num_workers=workers)
    dataset = knobs.build()
    index = np.concatenate([batch.index for batch in evaluated(dataset, knobs)])
    assert len(index) == 198
    assert not {dataset.test.describe(i) for i in index} & {str(path) for path in damaged}


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "workers"), [("resident", 0), ("streaming", 1)])
def test_more_than_one_percent_skipped_ends_the_run(tmp_path: Path, choice: str, workers: int) -> None:
    with_damaged(tmp_path, 3)
    knobs = options(tmp_path, on_error="skip", pipeline=choice, num_workers=workers)
    refusal(lambda: seen(knobs, "train"), "3 of 200", "1%", "train")


def test_images_too_many_for_memory_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnntrain.input import options as data_options

    write_images(tmp_path, count=10)
    assert options(tmp_path).build().train.get_resident_inputs() is not None
    monkeypatch.setattr(data_options, "RESIDENT_BYTES", 1000)
    knobs = options(tmp_path, num_workers=0)
    assert knobs.build().train.get_resident_inputs() is None
    assert pipeline(knobs.build(), knobs).name == "streaming"
    assert pipeline(options(tmp_path, pipeline="resident").build(), options(tmp_path)).name == "resident"


def test_a_random_part_differs_by_epoch_not_by_worker(tmp_path: Path) -> None:
    write_images(tmp_path, count=20, size=30)
    knobs = options(tmp_path, random_resized_crop=True, num_workers=0)
    dataset = knobs.build()
    one, again = (epoch_of(pipeline(dataset, replace(knobs, num_workers=workers)), epoch=1) for workers in (0, 2))
    assert_same(one, again)
    by_index = {}
    for epoch in (0, 1):
        for batch in epoch_of(pipeline(dataset, knobs), epoch):
            for number, image in zip(batch.index.tolist(), batch.inputs, strict=True):
                by_index[epoch, number] = image
    assert not any(torch.equal(by_index[0, number], by_index[1, number]) for number in range(len(dataset.train)))


def test_a_random_part_cannot_be_resident(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="random_resized_crop"):
        options(tmp_path, random_resized_crop=True, pipeline="resident").build()


def test_gray_is_one_channel(tmp_path: Path) -> None:
    write_images(tmp_path)
    dataset = options(tmp_path, channels=1).build()
    assert dataset.inputs.shape == (1, 8, 8)
    assert dataset.train.read(0).shape == (1, 8, 8)


def test_a_file_that_is_no_image_is_told_by_what_it_holds(tmp_path: Path) -> None:
    path = write_images(tmp_path)[0]
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\n", encoding="utf-8")
    knobs = options(tmp_path)
    dataset = knobs.build()
    sources = {source.describe(i): source for source in (dataset.train, dataset.test) for i in range(len(source))}
    refusal(sources[str(path)].get_resident_inputs, path, "Git-LFS")


def test_a_test_part_of_no_image_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, count=1)
    refusal(options(tmp_path, test_fraction=0.01).build, tmp_path, "0.01")
