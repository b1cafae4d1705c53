"""`prune=nm24`: two of four inputs stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dnntrain.choices.prune.nm24 import mask_two_of_four
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.inference.load import load_model
from dnntrain.protocols import WidthMultiple
from dnntrain.utils.hardware import Hardware
from tests.support.short_runs import trained


def test_the_two_largest_of_four_inputs_stay_at_each_place_of_a_kernel() -> None:
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = mask_two_of_four({"weight": weight, "odd": torch.ones(2, 3)}, 0.5)["weight"]
    groups = (weight * mask).abs().movedim(1, -1).reshape(3, 2, 2, 2, 4)
    assert ((groups > 0).sum(-1) == 2).all()
    dropped = (weight * ~mask).abs().movedim(1, -1).reshape(3, 2, 2, 2, 4).amax(-1)
    assert (groups.where(groups > 0, torch.inf).amin(-1) >= dropped).all()


@pytest.mark.slow
def test_a_run_ends_with_two_of_four(tmp_path: Path) -> None:
    trained(tmp_path / "run", "model=mlp", "model.hidden=[16]", "train.duration=4step", "prune=nm24")
    for name, value in load_model(tmp_path / "run").model.named_parameters():
        if value.ndim > 1:
            assert ((value.reshape(len(value), -1, 4) != 0).sum(-1) == 2).all(), name


def test_the_note_says_what_a_processor_gains() -> None:
    choice = decode_config(compose(["prune=nm24"])).prune
    assert "gains nothing on cpu" in choice.notes(Hardware("cpu"), WidthMultiple())[0]
    assert "sparse kernels" in choice.notes(Hardware("cuda"), WidthMultiple())[0]
