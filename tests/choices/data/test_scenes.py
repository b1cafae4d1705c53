"""data=scenes: keyed, with masks, boxes, labels and counts that say the same about a scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import refusal

from dnntrain.choices.data.scenes import MaskedSceneSource, Scenes, SceneSource
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.protocols import TargetKind

SMALL = Scenes(pictures="digits", train_size=30, test_size=10, image_size=32)


def get_source(scenes: Scenes, kind: TargetKind = TargetKind.MASK) -> SceneSource:
    source = scenes.choose_targets(kind).build().train
    assert isinstance(source, SceneSource)
    return source


def test_masks_boxes_labels_and_counts_agree() -> None:
    source = get_source(SMALL)
    assert isinstance(source, MaskedSceneSource)
    labels, counts = (get_source(SMALL, kind).labels for kind in (TargetKind.LABELS, TargetKind.NUMBERS))
    spec = SMALL.choose_targets(TargetKind.NUMBERS).build().targets
    assert labels.shape == (30, 10)
    for number, objects in enumerate(source.objects):
        mask = source.read_mask(number)
        assert mask.shape == (32, 32)
        assert set(mask.unique().tolist()) - {0} == {item.label + 1 for item in objects}
        assert int((mask > 0).sum()) == sum(item.pixels for item in objects)
        assert np.flatnonzero(labels[number]).tolist() == sorted({item.label for item in objects})
        assert counts[number, 0] * spec.std[0] + spec.mean[0] == pytest.approx(len(objects))
        for item in objects:
            top, left, height, width = item.box
            inside = mask[top : top + height, left : left + width] == item.label + 1
            assert inside.any(1)[[0, -1]].all()
            assert inside.any(0)[[0, -1]].all()


def test_scenes_are_keyed_and_do_not_depend_on_their_number() -> None:
    source, more, other = (
        get_source(item) for item in (SMALL, replace(SMALL, train_size=60), replace(SMALL, data_seed=1))
    )
    assert torch.equal(source.images, more.images[:30])
    assert torch.equal(source.masks, more.masks[:30])
    assert not torch.equal(source.images, other.images)
    assert SMALL.build().digest != replace(SMALL, data_seed=1).build().digest


def test_objects_are_seen_on_the_background() -> None:
    scenes = replace(SMALL, max_objects=1, channels=1)
    source = get_source(scenes)
    is_object = source.masks > 0
    assert 0.02 < is_object.float().mean() < 0.4
    brightness = source.images[:, 0].float()
    assert brightness[is_object].mean() > brightness[~is_object].mean() + 30


def test_scenes_need_not_be_square() -> None:
    dataset = replace(SMALL, image_size=24, image_width=40).choose_targets(TargetKind.MASK).build()
    assert dataset.inputs.shape == (3, 24, 40)
    assert dataset.train.read(0).shape == (3, 24, 40)


def test_the_task_decides_the_targets() -> None:
    words = ["data=scenes", "data.pictures=digits", "data.train_size=20", "data.test_size=5"]
    for task, more, kind in (
        ("segmentation", ["model=unet"], TargetKind.MASK),
        ("multilabel", [], TargetKind.LABELS),
        ("regression", [], TargetKind.NUMBERS),
    ):
        config = decode_config(compose([*words, f"task={task}", *more]))
        assert config.data.build().targets.kind is kind


def test_mistakes_name_the_setting(tmp_path: Path) -> None:
    refusal(Scenes(root=str(tmp_path)).check_files, "fashion_mnist", "data.pictures=digits")
    with pytest.raises(ConfigError, match="all scenes have 1 objects"):
        replace(SMALL, max_objects=1, targets="counts").build()
