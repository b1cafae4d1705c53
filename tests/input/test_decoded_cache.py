"""Decoded images that reading processes keep: the same batches, without the files."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, write_images
from rank_pool import Pool
from two_ranks_memory import kept_by_two_ranks

from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.input.augment import Augmentation
from dnntrain.input.decoded_cache import DecodedCache, read_kept_examples
from dnntrain.run.session import open_session
from dnntrain.utils import memory_size
from dnntrain.utils.memory_size import is_memory_scarce, list_limit_files, read_memory_bytes
from dnntrain.utils.world import World


def make_options(root: Path, pipeline_name: str, workers: int = 0) -> ImageFolder:
    return ImageFolder(root=str(root), image_size=8, pipeline=pipeline_name, num_workers=workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_later_epochs_have_the_batches_of_streaming_and_read_no_file(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, count=20)
    flips = Augmentation(0, 0.5)
    streaming, cached = make_options(tmp_path, "streaming"), make_options(tmp_path, "cached", workers)
    expected = [epoch_of(pipeline(streaming.build(), streaming, augmentation=flips), epoch) for epoch in (0, 1)]
    dataset = cached.build()
    dataset.train.keep_read()
    whole = pipeline(dataset, cached, augmentation=flips)
    assert whole.name == "cached"
    assert_same(epoch_of(whole, 0), expected[0])
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    assert_same(epoch_of(pipeline(dataset, cached, augmentation=flips), 1), expected[1])


def test_a_pipeline_streams_until_all_is_kept(tmp_path: Path) -> None:
    write_images(tmp_path, count=20)
    knobs = make_options(tmp_path, "cached", workers=1)
    dataset = knobs.build()
    dataset.train.keep_read()
    feed = pipeline(dataset, knobs, batch_size=8, micro_batch_size=8)
    steps = feed.steps_per_epoch
    other = make_options(tmp_path, "streaming")
    streaming = pipeline(other.build(), other, batch_size=8, micro_batch_size=8)
    inner = []
    for step in range(2 * steps):
        left, right = feed.take(step), streaming.take(step)
        assert_same(left.micro_batches, right.micro_batches)
        inner.append(feed._pipeline.name)
    assert inner == ["streaming"] * steps + ["resident"] * steps
    assert multiprocessing.active_children() == []
    streaming.close()
    feed.close()


def test_unreadable_images_are_skipped_in_each_epoch(tmp_path: Path) -> None:
    damaged = write_images(tmp_path, count=100, size=8)[7]
    damaged.write_bytes(damaged.read_bytes()[:60])
    found = []
    for name in ("streaming", "cached"):
        knobs = replace(make_options(tmp_path, name), on_error="skip")
        dataset = knobs.build()
        if name == "cached":
            dataset.train.keep_read()
        feed = pipeline(dataset, knobs)
        batches = [batch for step in range(2 * feed.steps_per_epoch) for batch in feed.take(step).micro_batches]
        found.append(([batch.index.tolist() for batch in batches], feed.get_skipped_examples()))
        feed.close()
    assert found[0] == found[1]
    assert set(found[0][1]) <= {str(damaged)}


def test_what_is_read_ahead_needs_no_file(tmp_path: Path) -> None:
    write_images(tmp_path, count=10)
    source = make_options(tmp_path, "cached").build().train
    expected = [source.read(index) for index in range(len(source))]
    source.keep_read()
    read_kept_examples(source, 0.0)
    assert not source._cache._is_present.any()
    read_kept_examples(source, 60.0)
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    assert all(torch.equal(source.read(index), image) for index, image in enumerate(expected))


def test_a_change_of_a_read_image_does_not_change_the_kept_one() -> None:
    cache = DecodedCache(3, (2, 4, 3))
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    cache.put(1, image)
    first = cache.get(1)
    assert first is not None
    assert torch.equal(first, image)
    first.zero_()
    assert torch.equal(cache.get(1), image)  # type: ignore[arg-type]
    assert cache.get(0) is None


def test_nothing_is_kept_while_memory_is_scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory_size, "_MEMORY_OF_MACHINE", meminfo)
    for available, is_scarce in ((124, True), (126, False)):
        meminfo.write_text(f"MemTotal:        1000 kB\nMemFree:     10 kB\nMemAvailable:    {available} kB\n")
        cache = DecodedCache(1, (2, 2, 1))
        cache.put(0, torch.ones(1, 2, 2, dtype=torch.uint8))
        assert is_memory_scarce() == is_scarce
        assert (cache.get(0) is None) == is_scarce
    meminfo.write_text("nothing that is known\n")
    assert not is_memory_scarce()


def test_the_lowest_limit_of_a_group_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("12:cpu,cpuacct:/\n4:memory:/slurm/job_7\n0::/user.slice/app\n")
    files = list_limit_files(groups.read_text(), root)
    assert root / "memory/slurm/memory.limit_in_bytes" in files
    assert root / "user.slice/app/memory.max" in files
    assert not list_limit_files("4:memory:/../outside\n", root)[2:] or all(".." not in path.parts for path in files)
    monkeypatch.setattr(memory_size, "_GROUPS_OF_PROCESS", groups)
    monkeypatch.setattr(memory_size, "list_limit_files", lambda text: list_limit_files(text, root))
    whole = read_memory_bytes()
    (root / "user.slice/app").mkdir(parents=True)
    (root / "user.slice/app/memory.max").write_text("max\n")
    assert read_memory_bytes() == whole
    (root / "memory/slurm/job_7").mkdir(parents=True)
    (root / "memory/slurm/job_7/memory.limit_in_bytes").write_text("2000000\n")
    (root / "memory/slurm/memory.limit_in_bytes").write_text("5000000\n")
    assert read_memory_bytes() == 2_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, with auto for which they are too many to decode before the first step."""
    from dnntrain.input import options

    monkeypatch.setattr(options, "RESIDENT_BYTES", 100)
    write_images(tmp_path, count=30)
    return tmp_path


def open_plan(folder: Path, *words: str) -> Any:
    line = ("data=image_folder", f"data.root={folder}", "data.image_size=8", "model=mlp", "train.batch_size=8")
    return open_session(decode_config(compose((*line, *words), quiet=True)), World(), plan_only=True).plan


def test_auto_keeps_what_fits_into_an_eighth_of_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnntrain.planning.checks import memory

    plan = open_plan(folder)
    kept_bytes = (plan.data.train + plan.data.val) * 3 * 8 * 8
    assert plan.data.cached
    assert plan.data.as_json()["cached"]
    assert plan.data.cached_bytes == kept_bytes
    assert any("of decoded examples kept in memory" in text for _, text in plan.format_rows())
    assert memory._CACHE_SHARE == 1 / 8
    monkeypatch.setattr(memory, "_CACHE_SHARE", (kept_bytes + 1) / read_memory_bytes())
    assert open_plan(folder).data.cached
    monkeypatch.setattr(memory, "_CACHE_SHARE", (kept_bytes - 1) / read_memory_bytes())
    assert not open_plan(folder).data.cached
    assert open_plan(folder, "data.pipeline=cached").data.cached
    assert not open_plan(folder, "data.random_resized_crop=true").data.cached


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("data.random_resized_crop=true",), "training images are read differently in every epoch"),
        (("data=digits",), "digits is in memory already"),
    ],
)
def test_what_cannot_be_kept_is_refused(folder: Path, words: tuple[str, ...], reason: str) -> None:
    line = words if "data=digits" in words else ("data=image_folder", f"data.root={folder}", *words)
    config = decode_config(compose((*line, "model=mlp", "data.pipeline=cached"), quiet=True))
    with pytest.raises(ConfigError, match=f"data.pipeline=cached is not possible: {reason}") as caught:
        open_session(config, World(), plan_only=True)
    assert "data.pipeline=auto" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["machines", "hidden", "other", "shared"])
def test_ranks_of_a_machine_keep_together(kind: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, count=20)
    first, second = kept_by_two_ranks(tmp_path, images, kind)
    if kind == "shared":
        assert first == second == list(range(len(first)))
    else:
        assert first == [2 * number for number in range(len(first))]
        assert second == [2 * number + 1 for number in range(len(second))]
        assert len(first) + len(second) > 20


def test_without_memory_all_is_read_again(tmp_path: Path) -> None:
    write_images(tmp_path, count=10)
    source = make_options(tmp_path, "cached").build().train
    source.keep_read(lambda size_bytes: None)
    read_kept_examples(source)
    assert source.get_resident_inputs() is None
    assert not source.has_kept(np.arange(len(source)))
    assert torch.equal(source.read(3), source.decode(3))


TRAINED = (
    *("data=image_folder", "data.image_size=8", "data.val_fraction=0.2", "data.num_workers=1", "model=mlp"),
    *("train.batch_size=8", "train.duration=3ep", "device=cpu"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "words"), [(1, ()), (2, ("parallel=ddp",))])
def test_a_run_has_the_same_weights_with_each_pipeline(
    ranks: int, words: tuple[str, ...], tmp_path: Path, pool: Pool
) -> None:
    write_images(tmp_path / "data", count=40)
    digests = set()
    for name in ("resident", "cached", "streaming"):
        line = [*TRAINED, *words, f"data.root={tmp_path / 'data'}", f"data.pipeline={name}"]
        outcome = pool.train(ranks, line, tmp_path / name)
        assert not outcome.error, outcome.error
        digests.add(outcome.result["digest"])
    assert len(digests) == 1
