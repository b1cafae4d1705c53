"""Decoded images that reading processes keep: the same batches, without the files."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, write_images
from rank_pool import Pool
from short_runs import broken_off, comparable, result
from two_ranks_memory import kept_by_two_ranks

from dnntrain import train
from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.input.augment import Augmentation
from dnntrain.input.cached import CachedPipeline
from dnntrain.input.decoded_cache import DecodedCache, fill_cache
from dnntrain.input.file_source import FileSource
from dnntrain.input.pipeline import read_evaluation_batches
from dnntrain.input.source import DataSet
from dnntrain.protocols import Batch
from dnntrain.run.session import open_session
from dnntrain.utils import memory_size
from dnntrain.utils.memory_size import is_memory_scarce, list_limit_files, read_memory_bytes
from dnntrain.utils.units import format_bytes
from dnntrain.utils.world import World

FREE_MEMORY = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 900 kB\n"


@pytest.fixture(autouse=True)
def meminfo(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of /proc/meminfo: the memory of this machine must not decide what is kept."""
    path: Path = tmp_path_factory.mktemp("proc") / "meminfo"
    path.write_text(FREE_MEMORY)
    monkeypatch.setattr(memory_size, "_MEMORY_OF_MACHINE", path)
    monkeypatch.setattr(memory_size, "_GROUPS_OF_PROCESS", path.with_name("cgroup"))
    return path


def make_options(root: Path, name: str, **changes: Any) -> ImageFolder:
    return ImageFolder(**{"root": str(root), "image_size": 8, "pipeline": name, "num_workers": 0, **changes})


def build(options: ImageFolder) -> tuple[DataSet, FileSource]:
    """The data set, and the source of its training split."""
    dataset = options.build()
    assert isinstance(dataset.train, FileSource)
    return dataset, dataset.train


def open_source(options: ImageFolder) -> FileSource:
    _, source = build(options)
    source.open_cache()
    return source


def make_cached(options: ImageFolder, **changes: Any) -> CachedPipeline:
    dataset, source = build(options)
    source.open_cache()
    feed = pipeline(dataset, options, **changes)
    assert isinstance(feed, CachedPipeline)
    return feed


def take_epochs(feed: Any, epochs: int) -> tuple[list[Batch], list[str]]:
    """Copies of the micro-batches of so many epochs, and the pipeline that made each step."""
    batches: list[Batch] = []
    names = []
    for step in range(epochs * feed.steps_per_epoch):
        batches += [replace(micro, inputs=micro.inputs.clone()) for micro in feed.take(step).micro_batches]
        names.append(feed._pipeline.name if isinstance(feed, CachedPipeline) else feed.name)
    feed.close()
    return batches, names


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_later_epochs_have_the_batches_of_streaming_and_read_no_file(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, count=20)
    changes = {"augmentation": Augmentation(0, 0.5), "batch_size": 8, "micro_batch_size": 8}
    streaming = make_options(tmp_path, "streaming")
    expected, _ = take_epochs(pipeline(streaming.build(), streaming, **changes), 3)
    feed = make_cached(make_options(tmp_path, "cached", num_workers=workers), **changes)
    first = [micro for step in range(feed.steps_per_epoch) for micro in feed.take(step).micro_batches]
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    assert_same(first, expected[: len(first)])
    batches, names = take_epochs(feed, 3)
    assert_same(batches, expected)
    assert set(names[feed.steps_per_epoch :]) == {"resident"}
    assert multiprocessing.active_children() == []


def test_each_batch_lies_where_a_streamed_one_lies(tmp_path: Path) -> None:
    """Kernels may sum in another order elsewhere, and a resumed run streams where the whole one gathers."""
    write_images(tmp_path, count=20)
    options = make_options(tmp_path, "cached", image_size=7)
    feed = make_cached(options, batch_size=5, micro_batch_size=5)
    starts = [micro.inputs.data_ptr() % 64 for step in range(20) for micro in feed.take(step).micro_batches]
    assert feed._pipeline.name == "resident"
    assert set(starts) == {0}


def test_unreadable_images_are_skipped_in_each_epoch(tmp_path: Path) -> None:
    write_images(tmp_path, count=100, size=8)
    damaged = open_source(make_options(tmp_path, "cached")).paths[7]
    damaged.write_bytes(damaged.read_bytes()[:60])
    batches, skipped = {}, {}
    for name in ("streaming", "cached"):
        options = make_options(tmp_path, name, on_error="skip")
        feed: Any = make_cached(options) if name == "cached" else pipeline(options.build(), options)
        batches[name], names = take_epochs(feed, 3)
        skipped[name] = feed.get_skipped_examples()
    assert_same(batches["cached"], batches["streaming"])
    assert skipped["cached"] == skipped["streaming"]
    assert set(skipped["cached"]) == {str(damaged)}
    assert names[-1] == "resident"


def test_an_evaluation_gathers_what_is_kept_and_reads_the_rest(tmp_path: Path) -> None:
    write_images(tmp_path, count=20)
    options = make_options(tmp_path, "cached")
    dataset, source = build(options)

    def evaluate(indices: Sequence[int]) -> list[Batch]:
        places = {"batch_size": 4, "world": World(), "device": "cpu", "channels_last": False}
        batches = read_evaluation_batches(options, dataset, source, np.array(indices), **places)  # type: ignore[arg-type]
        return [replace(batch, inputs=batch.inputs.clone()) for batch in batches]

    expected = evaluate(range(12))
    source.open_cache()
    fill_cache(source, np.arange(6))
    assert_same(evaluate(range(12)), expected)  # half of them is read now
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    assert_same(evaluate(range(12)), expected)


def test_what_is_read_ahead_needs_no_file(tmp_path: Path) -> None:
    write_images(tmp_path, count=10)
    source = open_source(make_options(tmp_path, "cached"))
    numbers = np.arange(len(source))
    expected = [source.decode(index) for index in range(len(source))]
    fill_cache(source, numbers, 0.0)
    assert not any(source.has_cached(numbers[number : number + 1]) for number in numbers)
    fill_cache(source, numbers[:5])
    assert source.has_cached(numbers[:5])
    assert not source.has_cached(numbers[:6])
    fill_cache(source, numbers)
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


def test_nothing_is_kept_while_memory_is_scarce(meminfo: Path) -> None:
    for available, is_scarce in ((124, True), (126, False)):
        meminfo.write_text(f"MemTotal:        1000 kB\nMemFree:     10 kB\nMemAvailable:    {available} kB\n")
        cache = DecodedCache(1, (2, 2, 1))
        cache.put(0, torch.ones(1, 2, 2, dtype=torch.uint8))
        assert is_memory_scarce() == is_scarce
        assert (cache.get(0) is None) == is_scarce
    meminfo.write_text("nothing that is known\n")
    assert not is_memory_scarce()


@pytest.mark.parametrize(
    ("line", "folder", "limit_file", "names"),
    [
        ("0::/app", "app", "memory.max", ("anon", "shmem")),
        ("4:memory:/job", "memory/job", "memory.limit_in_bytes", ("total_rss", "total_shmem")),
    ],
)
def test_memory_is_scarce_near_the_limit_of_a_group(
    line: str, folder: str, limit_file: str, names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / folder
    group.mkdir(parents=True)
    monkeypatch.setattr(memory_size, "list_limit_files", lambda text: list_limit_files(line, tmp_path))
    (group / limit_file).write_text("8000\n")
    for shared, is_scarce in ((1001, True), (999, False)):
        (group / "memory.stat").write_text(f"{names[0]} 6000\nfile 50000\n{names[1]} {shared}\n")
        assert is_memory_scarce() == is_scarce
    (group / limit_file).write_text("max\n")
    assert not is_memory_scarce()


def test_the_lowest_limit_of_a_group_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("12:cpu,cpuacct:/\n4:memory:/slurm/job_7\n0::/user.slice/app\n")
    files = list_limit_files(groups.read_text(), root)
    assert root / "memory/slurm/memory.limit_in_bytes" in files
    assert root / "user.slice/app/memory.max" in files
    whole = [root / "memory.max", root / "memory/memory.limit_in_bytes"]
    assert list_limit_files("4:memory:/../outside\n", root) == whole
    monkeypatch.setattr(memory_size, "_GROUPS_OF_PROCESS", groups)
    monkeypatch.setattr(memory_size, "list_limit_files", lambda text: list_limit_files(text, root))
    machine = read_memory_bytes()
    (root / "user.slice/app").mkdir(parents=True)
    (root / "user.slice/app/memory.max").write_text("max\n")
    assert read_memory_bytes() == machine
    (root / "memory/slurm/job_7").mkdir(parents=True)
    (root / "memory/slurm/job_7/memory.limit_in_bytes").write_text("2000000\n")
    (root / "memory/slurm/memory.limit_in_bytes").write_text("5000000\n")
    assert read_memory_bytes() == 2_000_000


def test_without_memory_all_is_read_again(tmp_path: Path) -> None:
    write_images(tmp_path, count=10)
    options = make_options(tmp_path, "cached")
    dataset, source = build(options)
    source.open_cache(lambda size_bytes: None)
    fill_cache(source, np.arange(len(source)))
    assert not source.has_cache
    assert not source.has_cached(np.arange(len(source)))
    assert torch.equal(source.read(3), source.decode(3))
    feed = pipeline(dataset, options)
    assert feed.name == "streaming"
    assert sum(map(len, epoch_of(feed, 1))) == len(source)


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
    shown = f"cached: {format_bytes(kept_bytes)} of decoded examples are kept in memory"
    assert any(shown in text for _, text in plan.format_rows())
    assert plan.memory.data - open_plan(folder, "data.pipeline=streaming").memory.data == kept_bytes
    assert open_plan(folder, "train.max_examples=20").data.cached_bytes < kept_bytes
    for tasks in (1, 2):  # each machine keeps all examples, which its ranks share
        layout = ("parallel=ddp", "launch=slurm", "launch.nodes=2", f"launch.nproc={tasks}")
        kept, streamed = (open_plan(folder, *layout, f"data.pipeline={name}") for name in ("auto", "streaming"))
        assert kept.memory.data - streamed.memory.data == kept_bytes // tasks
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
        (("data.random_resized_crop=true",), "training examples are read differently in every epoch"),
        (("data=digits",), "digits is in memory already"),
    ],
)
def test_an_impossible_cache_is_named(folder: Path, words: tuple[str, ...], reason: str) -> None:
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
    count = len(make_options(images, "cached").build().train)
    first, second = kept_by_two_ranks(tmp_path, images, kind)
    if kind == "shared":
        assert first == second == list(range(count))
    else:
        assert (first, second) == (list(range(0, count, 2)), list(range(1, count, 2)))


TRAINED = (
    *("data=image_folder", "data.image_size=7", "data.val_fraction=0.2", "data.num_workers=1", "model=mlp"),
    *("train.batch_size=5", "train.duration=4ep", "device=cpu", "log.report=false", "checkpoint.every=4step"),
    *("train.cpu_threads=1", "checkpoint.keep_last=100", "log.every=4step"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "words"), [(1, ()), (2, ("parallel=ddp",))])
def test_a_run_has_the_same_weights_with_each_pipeline(
    ranks: int, words: tuple[str, ...], tmp_path: Path, pool: Pool
) -> None:
    write_images(tmp_path / "data", count=40)
    digests = set()
    for name in ("cached", "streaming"):
        line = [*TRAINED, *words, f"data.root={tmp_path / 'data'}", f"data.pipeline={name}"]
        outcome = pool.train(ranks, line, tmp_path / name)
        assert not outcome.error, outcome.error
        digests.add(outcome.result["digest"])
    assert len(digests) == 1


@pytest.mark.slow
def test_a_run_that_was_broken_off_streams_where_the_whole_one_gathered_and_has_its_bits(tmp_path: Path) -> None:
    write_images(tmp_path / "data", count=40)
    line = (*TRAINED, f"data.root={tmp_path / 'data'}", "data.pipeline=cached")
    train(*line, f"run_dir={tmp_path / 'whole'}", display="quiet")
    last = int(result(tmp_path / "whole")["steps"])
    broken_off(tmp_path / "whole", tmp_path / "again", 4 * (last // 4 // 2))
    train(*line, f"run_dir={tmp_path / 'again'}", display="quiet")
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")
    assert result(tmp_path / "again")["digest"] == result(tmp_path / "whole")["digest"]


@pytest.mark.slow
def test_sizes_of_batches_are_measured_after_the_cache_is_full(folder: Path) -> None:
    from dnntrain.tune import batch_size

    words = ("data=image_folder", f"data.root={folder}", "data.image_size=8", "data.pipeline=cached", "model=mlp")
    session = open_session(decode_config(compose((*words, "train.batch_size=8"), quiet=True)), World())
    for size in (4, 8):
        assert batch_size._measure_size(session, size, steps=2) is not None
    source = session.data.dataset.train
    assert isinstance(source, FileSource)
    assert source.has_cached(session.data.train)
