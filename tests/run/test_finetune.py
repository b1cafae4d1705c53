"""Fine-tuning on a folder of real pictures, as the page says: the head first, then all blocks at lower rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from short_runs import result

from dnntrain import train
from dnntrain.choices.data.digits import Digits


def write_digit_folders(root: Path, classes: range) -> None:
    """The digits of `classes` as PNG files, one folder for each."""
    source = Digits().build().train
    for number in range(len(source)):
        label = int(source.labels[number])
        if label in classes:
            folder = root / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(number)[0].numpy()).save(folder / f"{number}.png")


@pytest.mark.slow
def test_a_network_trained_elsewhere_learns_other_classes(tmp_path: Path) -> None:
    write_digit_folders(tmp_path / "low", range(5))
    write_digit_folders(tmp_path / "high", range(5, 10))
    common = ("data.image_size=8", "data.channels=1", "model=resnet20", "log.report=false", "checkpoint.every=1ep")
    base = ("data=image_folder", f"data.root={tmp_path}/low", "train.duration=2ep", "optim.lr=4e-3", "augment=[]")
    train(*common, *base, f"run_dir={tmp_path}/base", display="quiet")
    train(
        "experiment=finetune_folder",
        *common,
        f"data.root={tmp_path}/high",
        "data.random_resized_crop=false",
        "augment=[]",
        f"init_from={tmp_path}/base",
        "init_replace_head=true",
        "train.duration=4ep",
        "optim.lr=4e-3",
        "checkpoint.keep_last=9",
        run_dir=tmp_path / "tuned",
        train={"freeze": ["*", "!head.*"], "unfreeze_at": "1ep"},
        display="quiet",
    )
    before = load_file(tmp_path / "base" / "model.safetensors")
    steps = sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "tuned" / "checkpoints").glob("step-*"))
    states = [load_file(tmp_path / "tuned" / "checkpoints" / f"step-{step}" / "state-0.safetensors") for step in steps]
    assert torch.equal(states[0]["model/stem.conv.weight"], before["stem.conv.weight"])
    assert not torch.equal(states[-1]["model/stem.conv.weight"], before["stem.conv.weight"])
    assert result(tmp_path / "tuned")["test_accuracy"] > 0.7
