"""Recipes whose data nobody has at hand: each can be planned on files in the format of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_files import write_images
from test_cifar import write_binary

from dnntrain.choices.data import cifar10, cifar100
from dnntrain.cli.main import main


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "known", "folder", "parameters"),
    [
        ("cifar10", cifar10.SPEC, "cifar-10-batches-bin", 11_173_962),  # ResNet-18 as on CIFAR
        ("cifar100", cifar100.SPEC, "cifar-100-binary", 36_536_884),  # the paper: 36.5 M
    ],
)
def test_recipes_for_cifar_can_be_planned(
    recipe: str, known: object, folder: str, parameters: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_binary(tmp_path / folder, known, count=200)
    assert main(["plan", "--json", f"experiment={recipe}", f"data.root={tmp_path}"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["model"]["parameters"] == parameters


@pytest.mark.slow
def test_the_recipe_for_imagenet_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "train", count=600)
    write_images(tmp_path / "val", count=2)
    assert (
        main(["plan", "--json", "experiment=imagenet_folder", f"data.root={tmp_path}", "train.micro_batch_size=8"]) == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert made["model"]["parameters"] == 25_557_032 - 998 * 2049  # torchvision's count, with 2 classes for 1,000
