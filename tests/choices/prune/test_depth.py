"""`prune=depth`: residual blocks go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dnntrain.errors import ConfigError
from dnntrain.inference.load import load_model
from dnntrain.pruning.depth import drop_blocks, drop_state
from dnntrain.pruning.widths import Widths
from tests.support.short_runs import broken_off, trained

RUN = (
    "model=vit_tiny",
    "model.embed_dim=16",
    "model.depth=4",
    "model.num_heads=2",
    "model.patch_size=2",
    "train.duration=8step",
    "train.max_examples=64",
    "checkpoint.every=2step",
    "checkpoint.keep_last=9",
    "optim=adamw",
    "average=[ema]",
    "prune=depth",
    "prune.ratio=0.4",
)


def test_widths_inside_a_dropped_block_go_with_it() -> None:
    widths = Widths({"a.weight": (2,), "b.0.weight": (3,)}, {"b.0": {"num_heads": 1}}, ("b.0.c",))
    assert drop_blocks(widths, ["b.0"]) == Widths({"a.weight": (2,)}, {}, ("b.0",))
    assert drop_state({"model": {"b.0.weight": 1, "b.01.weight": 2}}, ["b.0"]) == {"model": {"b.01.weight": 2}}


@pytest.mark.slow
def test_the_blocks_are_gone_in_the_run_after_a_resume_and_when_loaded(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", *RUN)
    model = load_model(tmp_path / "whole").model
    kinds = [type(block) for block in model.blocks]  # type: ignore[union-attr,arg-type]
    assert kinds.count(nn.Identity) == 2
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    broken_off(tmp_path / "whole", tmp_path / "again", 6)
    assert trained(tmp_path / "again", *RUN)["digest"] == whole["digest"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("model=mlp", "model.hidden=[16]"), "use prune=structured, or a residual network"),
        ((*RUN[:5], "prune.exclude=[blocks.0,blocks.1,blocks.2]"), "use prune.ratio=0.2"),
    ],
)
def test_a_target_that_no_blocks_reach_is_rejected_before_the_run(
    words: tuple[str, ...], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be reached") as caught:
        trained(tmp_path / "run", *words, *RUN[5:])
    assert hint in str(caught.value)
    assert not (tmp_path / "run").exists()
