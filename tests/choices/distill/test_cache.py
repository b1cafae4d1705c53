"""The teacher's cache: bitwise the same weights, bound to teacher and data, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import trained
from students import of_digits, taught_by

from dnntrain.choices.distill._teacher_cache import TeacherCache, digest_images
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.kd import Kd
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import Batch, BatchStage, BatchTransform, Hooks
from dnntrain.utils.rng import Key


def batch(images: torch.Tensor) -> Batch:
    index = np.arange(len(images))
    return Batch(images, torch.zeros(len(images), dtype=torch.int64), index, index)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_a_run_with_a_cache_ends_with_the_same_bits(short_run: Path, tmp_path: Path, pipeline: str) -> None:
    words = (*taught_by(short_run, "kd"), "augment.crop.padding=1", f"data.pipeline={pipeline}", "data.num_workers=0")
    digests = [
        trained(tmp_path / name, *words, f"distill.cache={name}", *more)["digest"]
        for name, more in (("none", ()), ("memory", ()), ("disk", (f"distill.cache_dir={tmp_path}/cache",)))
    ]
    # Once more, with what the first run has left.
    again = trained(tmp_path / "again", *words, "distill.cache=disk", f"distill.cache_dir={tmp_path}/cache")
    assert len({*digests, again["digest"]}) == 1
    assert list((tmp_path / "cache").glob("*.safetensors"))


def test_outputs_that_are_kept_are_not_computed_again(short_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teach = (
        Kd(teacher=str(short_run), cache="memory", teacher_batch_size=4).build(of_digits()).batch_transforms[0].apply
    )
    images = torch.rand(10, 1, 8, 8)
    first = teach(batch(images), Key(0)).extras[LOGITS]
    calls = []
    monkeypatch.setattr(
        "dnntrain.choices.distill._teacher_runner.TeacherRunner.__call__",
        lambda self, images: calls.append(len(images)),
    )
    order = torch.randperm(10)
    assert torch.equal(teach(batch(images[order]), Key(0)).extras[LOGITS], first[order])
    assert calls == []


def test_an_image_gets_the_same_bits_in_any_company(short_run: Path) -> None:
    teach = Kd(teacher=str(short_run)).build(of_digits()).batch_transforms[0].apply
    images = torch.rand(70, 1, 8, 8)
    whole = teach(batch(images), Key(0)).extras[LOGITS]
    for chosen in (torch.tensor([69]), torch.tensor([40, 3, 3, 12, 68]), torch.arange(1, 67)):
        assert torch.equal(teach(batch(images[chosen]), Key(0)).extras[LOGITS], whole[chosen])


def test_two_views_of_one_example_are_told_apart() -> None:
    images = torch.rand(3, 2, 5, 5)
    images[1] = images[0]
    images[1, 1, 4, 4] += 1e-6
    views = digest_images(images)
    assert len(set(views)) == 3
    assert digest_images(images.contiguous(memory_format=torch.channels_last)) == views


def test_the_limit_is_kept_and_what_is_beyond_is_computed_anew(tmp_path: Path) -> None:
    store = TeacherCache({"y": (4,)}, limit_bytes=16 * 5)
    views = digest_images(torch.rand(8, 1, 2, 2))
    store.add(views, {"y": torch.arange(32.0).view(8, 4)})
    assert len(store) == 5
    assert (store.locate(views)[:, 0] >= 0).tolist() == [True] * 5 + [False] * 3
    assert torch.equal(
        store.read_rows(store.locate(views)[[4, 1]], torch.device("cpu"))["y"][:, 0], torch.tensor([16.0, 4.0])
    )


def test_a_training_part_that_does_not_fit_is_refused_with_the_size_that_does(short_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill.cache_size_gb=") as caught:
        Kd(teacher=str(short_run), cache="memory", cache_size_gb=1e-6).build(of_digits(train_examples=1000))
    needed = float(str(caught.value).partition("use distill.cache_size_gb=")[2].split()[0])
    Kd(teacher=str(short_run), cache="memory", cache_size_gb=needed).build(of_digits(train_examples=1000))


@pytest.mark.parametrize(
    ("changes", "knobs", "reason"),
    [
        ({"data_digest": "other"}, {}, "for other data"),
        ({}, {"teacher_precision": "bf16"}, "of another teacher, or of other outputs"),
        ({}, {"teacher_batch_size": 8}, "of another teacher, or of other outputs"),
    ],
)
def test_a_folder_of_other_outputs_is_refused(
    short_run: Path, tmp_path: Path, changes: dict[str, str], knobs: dict[str, object], reason: str
) -> None:
    filled(short_run, tmp_path / "cache")
    with pytest.raises(ConfigError, match=reason):
        Kd(teacher=str(short_run), cache="disk", cache_dir=f"{tmp_path}/cache", **knobs).build(of_digits(**changes))


@pytest.mark.slow
def test_a_cache_of_another_teacher_is_refused(short_run: Path, tmp_path: Path) -> None:
    filled(short_run, tmp_path / "cache")
    trained(tmp_path / "other", "train.duration=1ep", "train.max_examples=64", "eval.run_test=false")
    with pytest.raises(ConfigError, match=r"of another teacher(.|\n)*each teacher then gets its own folder"):
        Kd(teacher=f"{tmp_path}/other", cache="disk", cache_dir=f"{tmp_path}/cache").build(of_digits())


def test_a_folder_with_other_files_is_refused(short_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a teacher's cache"):
        Kd(teacher=str(short_run), cache="disk", cache_dir=str(tmp_path)).build(of_digits())


def test_a_folder_that_cannot_be_written_is_refused_beforehand(short_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("/proc/x", f"{tmp_path}/file/cache"):
        with pytest.raises(ConfigError, match=r"cannot be written(.|\n)*distill\.cache=memory"):
            Kd(teacher=str(short_run), cache="disk", cache_dir=folder).build(of_digits())
    Kd(teacher=str(short_run), cache="disk", cache_dir=f"{tmp_path}/new/cache").build(of_digits())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_shard_is_found(short_run: Path, tmp_path: Path) -> None:
    (shard,) = filled(short_run, tmp_path / "cache").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    teach = (
        Kd(teacher=str(short_run), cache="disk", cache_dir=f"{tmp_path}/cache")
        .build(of_digits())
        .batch_transforms[0]
        .apply
    )
    with pytest.raises(CheckpointError, match="is damaged"):
        teach(batch(torch.rand(2, 1, 8, 8)), Key(0))


def test_a_cache_is_refused_where_examples_are_mixed(short_run: Path) -> None:
    mixed = Hooks(batch_transforms=(BatchTransform(BatchStage.MIX, lambda batch, key: batch),))
    with pytest.raises(ConfigError, match=r"has no effect(.|\n)*distill.cache=none"):
        Kd(teacher=str(short_run), cache="memory").check_with(mixed)
    Kd(teacher=str(short_run)).check_with(mixed)


def test_a_folder_without_a_cache_on_disk_is_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        Kd(teacher=str(short_run), cache="memory", cache_dir="x").build(of_digits())


def filled(teacher: Path, folder: Path) -> Path:
    """A folder with the outputs of 20 images."""
    parts = Kd(teacher=str(teacher), cache="disk", cache_dir=str(folder)).build(of_digits())
    parts.batch_transforms[0].apply(batch(torch.rand(20, 1, 8, 8)), Key(0))
    from dnntrain.protocols import StepInfo

    parts.after_step_hooks[0](StepInfo(99, 10.0, 1.0))
    return folder
