"""`prune=structured`: the network becomes smaller within a run, and stays usable by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.inference.load import load_model
from tests.support.short_runs import comparable, rows, trained

SMALL = (
    "model=resnet_cifar",
    "model.depth=8",
    "model.width=8",
    "train.channels_last=off",
    "model.shortcut=project",
    "train.duration=8step",
    "train.max_examples=64",
    "eval.every=2step",
    "checkpoint.every=2step",
    "checkpoint.keep_last=9",
    "eval.max_examples=40",
    "prune=structured",
)


def count_weights(run: Path) -> int:
    model = load_model(run).model
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_pruned_run_is_smaller_and_loads_by_name(tmp_path: Path) -> None:
    result = trained(tmp_path / "run", *SMALL)
    assert result["status"] == "done"
    (row,) = [row for row in rows(tmp_path / "run") if row.get("event") == "pruned"]
    assert row["step"] == 4
    loaded = load_model(tmp_path / "run").model
    assert sum(parameter.numel() for parameter in loaded.parameters()) == row["parameters"] < 19000
    assert loaded.stages[0][0].conv1.out_channels < 8  # type: ignore[index,union-attr]
    card = json.loads((tmp_path / "run" / "config.json").read_text())
    assert card["dnntrain"]["widths"]["shapes"]
    with torch.no_grad():
        assert loaded(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_run_killed_at_its_cut_or_after_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SMALL, "average=[ema]", "optim=muon", "prune.schedule=iterative", "prune.cuts=2")
    whole = trained(tmp_path / "whole", *overrides)
    import dnntrain.run.reshape_run as reshape_run

    cut, calls = reshape_run.cut_checkpoint, []

    def fail_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) in (1, 3):
            raise OSError("killed")
        return cut(*arguments)

    monkeypatch.setattr(reshape_run, "cut_checkpoint", fail_once)
    for _ in range(2):
        with pytest.raises(OSError, match="killed"):
            trained(tmp_path / "again", *overrides)
    again = trained(tmp_path / "again", *overrides)
    assert len(calls) == 4
    assert again["digest"] == whole["digest"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")


@pytest.mark.slow
def test_a_pruned_run_is_trained_on_exported_and_pruned_again(tmp_path: Path) -> None:
    trained(tmp_path / "first", *SMALL, "prune.ratio=0.3")
    first = count_weights(tmp_path / "first")
    start = f"init_from={tmp_path / 'first'}"
    plain = [word for word in SMALL if not word.startswith("prune")]
    trained(tmp_path / "plain", *plain, start)
    assert count_weights(tmp_path / "plain") == first
    trained(tmp_path / "second", *SMALL, "prune.at=0%", "prune.ratio=0.5", "prune.criterion=taylor", start)
    assert count_weights(tmp_path / "second") < first

    main(["export", str(tmp_path / "second"), "--format", "safetensors", "--path", str(tmp_path / "export")])
    assert sum(parameter.numel() for parameter in load_model(tmp_path / "export").model.parameters()) < first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.at=100%"], "before the end of the run"),
        (["train.duration=5s"], "cannot be converted to steps"),
        (["prune.ratio=0.99"], "cannot be reached"),
        (["prune.exclude=[stages.9]"], "does not match a module"),
    ],
)
def test_wrong_use_is_rejected_before_anything_is_written(tmp_path: Path, overrides: list[str], message: str) -> None:
    given = {word.split("=")[0] for word in overrides}
    kept = [word for word in SMALL if word.split("=")[0] not in given]
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", *kept, *overrides)
    assert not (tmp_path / "run").exists()


def test_tensor_parallel_and_stages_are_rejected_with_the_nearest_layout() -> None:
    from dnntrain.distributed.parallel_dims import ParallelDims

    choice = decode_config(compose(["prune=structured"])).prune
    (refusal,) = choice.find_layout_refusals(ParallelDims(pp=2))
    assert "parallel.pp=2" in refusal.reason
    assert "parallel=ddp" in refusal.hint
    assert not list(choice.find_layout_refusals(ParallelDims(shard=2)))
