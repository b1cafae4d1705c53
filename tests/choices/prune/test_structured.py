"""`prune=structured`: the network becomes smaller within a run, and stays usable by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_pool import Pool

from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.choices.prune._find_cut import check_tensor_parallel
from dnntrain.choices.prune.structured import SavedMultiple
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.inference.load import load_model
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.width_multiple import choose_width_multiple
from dnntrain.pruning.latency import measure_latency_ratios
from dnntrain.pruning.trace import find_groups
from dnntrain.utils.hardware import Hardware
from tests.support.short_runs import broken_off, comparable, rows, trained

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
    assert result["parameters"] == row["parameters"]
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
        (["prune.ratio=0.99", "prune.target=latency"], "of the latency can be removed"),
        (["prune.exclude=[stages.9]"], "does not match a module"),
        (["optim=adafactor"], "does not support optim=adafactor here"),
        (["optim=adamw_8bit", "model.width=32"], "does not support optim=adamw_8bit here"),
    ],
)
def test_wrong_use_is_rejected_before_anything_is_written(tmp_path: Path, overrides: list[str], message: str) -> None:
    given = {word.split("=")[0] for word in overrides}
    kept = [word for word in SMALL if word.split("=")[0] not in given]
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", *kept, *overrides)
    assert not (tmp_path / "run").exists()


VIT = (
    *("model=vit_tiny", "model.embed_dim=16", "model.depth=2", "model.num_heads=4", "model.patch_size=2"),
    *("prune=structured", "prune.ratio=0.4", "prune.round_to=8"),
)


@pytest.mark.slow
def test_layouts_prune_as_one_process_and_train_on_with_its_losses(tmp_path: Path, pool: Pool) -> None:
    run = (*VIT, "train.duration=24step", "prune.at=4step", "train.max_examples=64", "log.every=1step", "optim.lr=1e-3")
    run = (*run, "train.batch_size=32", "precision=fp32", "log.report=false", "eval.every=24step", "optim=adamw")
    assert not pool.train(1, run, tmp_path / "one").error
    events, losses = read_cut(tmp_path / "one")
    assert "attn.qkv 4→2" in events[0]["widths"]
    for layout in ("ddp", "fsdp", "tp", "pp"):
        outcome = pool.train(2, [*run, f"parallel={layout}"], tmp_path / layout)
        assert not outcome.error, outcome.error
        layout_events, layout_losses = read_cut(tmp_path / layout)
        assert [row["widths"] for row in layout_events] == [row["widths"] for row in events]
        assert layout_losses == pytest.approx(losses, rel=1e-5), layout
        assert load_model(tmp_path / layout).model.blocks[0].attn.qkv.out_features == 24  # type: ignore[index,union-attr]


def read_cut(run: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """The events of cuts, and the loss of each step."""
    written = rows(run)
    cuts = [row for row in written if row.get("event") == "pruned"]
    return cuts, [row["loss"] for row in written if row["split"] == "train"]


def test_tensor_parallelism_needs_widths_that_it_divides() -> None:
    config = decode_config(compose(VIT))
    model = config.model.build(ModelShape(10, 1, 8, 8)).eval()
    groups = find_groups(model, torch.zeros(1, 1, 8, 8)).groups
    with pytest.raises(ConfigError, match=r"parallel\.tp=2 does not divide") as error:
        check_tensor_parallel(model, groups, 1, 2)
    assert "prune.round_to=8" in error.value.hint
    check_tensor_parallel(model, groups, 8, 2)
    check_tensor_parallel(model, groups, 1, 1)


def test_the_automatic_multiple_is_that_of_the_machine_on_which_the_run_began() -> None:
    automatic, typed = SavedMultiple("auto", 8), SavedMultiple(4, 8)
    for multiple in (automatic, typed):
        multiple.load_state_dict({"round_to": 16})
    assert (automatic.value, typed.value) == (16, 4)


@pytest.mark.parametrize(
    ("hardware", "has_integers", "multiple"),
    [
        (Hardware("cuda", capability=(9, 0)), False, 8),
        (Hardware("cuda", capability=(9, 0)), True, 16),
        (Hardware("cpu", cpu_features=("avx2", "avx512f")), False, 16),
        (Hardware("cpu", cpu_features=("avx2",)), True, 8),
        (Hardware("cpu"), False, 4),
        (Hardware("mps"), False, 8),
    ],
)
def test_the_automatic_multiple_is_a_function_of_hardware_and_number_format(
    hardware: Hardware, has_integers: bool, multiple: int
) -> None:
    choice = choose_width_multiple(hardware, has_integers)
    assert choice.value == multiple
    (note,) = decode_config(compose(["prune=structured", "prune.round_to=auto"])).prune.notes(hardware, choice)
    assert f"multiples of {multiple}" in note


@pytest.mark.slow
def test_an_optimizer_with_factored_moments_is_cut_with_a_network_of_matrices(tmp_path: Path) -> None:
    words = ("model=mlp", "model.hidden=[32]", "prune=structured", "train.max_examples=64", "train.duration=4step")
    result = trained(tmp_path / "run", *words, "optim=adafactor")
    assert result["status"] == "done"
    (row,) = [row for row in rows(tmp_path / "run") if row.get("event") == "pruned"]
    assert count_weights(tmp_path / "run") == row["parameters"] < 64 * 32


WATCHED = ("monitor=[dead_units,loss_spike,gradient_norm]", "monitor.dead_units.every_steps=3")


@pytest.mark.slow
@pytest.mark.parametrize("prune", ["structured", "depth"])
def test_monitors_begin_again_at_a_cut_and_resume_after_it_with_the_same_bits(tmp_path: Path, prune: str) -> None:
    method = [
        f"prune={prune}",
        "model.depth=14",
        *WATCHED,
        "monitor.dead_units.window=3",
        "monitor.loss_spike.window=8",
    ]
    overrides = [*(word for word in SMALL if not word.startswith(("prune=", "model.depth="))), *method]
    overrides += [f"monitor.{name}.action=stop" for name in ("dead_units", "loss_spike", "gradient_norm")]
    whole = trained(tmp_path / "whole", *overrides)
    assert whole["status"] == "done"
    after = read_checkpoint(tmp_path / "whole" / "checkpoints" / "step-6").states
    # The cut came after step 4, so that the windows hold the losses and norms of steps 5 and 6.
    assert [len(after[name]) for name in ("loss_spike", "gradient_norm")] == [2, 2]
    assert after["dead_units"]["good_until"] >= 4
    for step in (4, 6):
        broken_off(tmp_path / "whole", tmp_path / f"from-{step}", step)
        assert trained(tmp_path / f"from-{step}", *overrides)["digest"] == whole["digest"]


def test_a_latency_is_measured_on_the_device_of_the_run() -> None:
    model, devices = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), set()
    model[1].register_forward_pre_hook(
        lambda module, inputs: devices.add((inputs[0].device.type, module.weight.device.type))
    )
    ratios = measure_latency_ratios(model, model, ModelShape(4, 1, 8, 8), pairs=1, device="meta")
    assert len(ratios) == 1
    assert devices == {("meta", "meta")}
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.slow
def test_a_cut_whose_state_cannot_be_saved_is_made_at_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_saving(monkeypatch, 4)
    assert trained(tmp_path / "run", *SMALL, "checkpoint.on_error=warn")["status"] == "done"
    (row,) = [row for row in rows(tmp_path / "run") if row.get("event") == "pruned"]
    assert row["step"] == 6
    assert count_weights(tmp_path / "run") == row["parameters"]


@pytest.mark.slow
def test_a_run_that_can_never_save_the_state_of_its_cut_says_so_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_saving(patch, 4, 6, 8)
        with pytest.raises(CheckpointError, match="no checkpoint could be saved since step 4"):
            trained(tmp_path / "run", *SMALL, "checkpoint.on_error=warn")
    assert trained(tmp_path / "run", *SMALL, "checkpoint.on_error=warn")["status"] == "done"
    assert [row["step"] for row in rows(tmp_path / "run") if row.get("event") == "pruned"] == [4]


def fail_saving(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let the disk be full for the first checkpoint of each of these steps."""
    import dnntrain.training.checkpointer as checkpointer

    write, left = checkpointer.write_state, set(steps)

    def write_or_fail(folder: Path | None, step: int, *arguments: Any) -> Any:
        if step in left:
            left.discard(step)
            raise OSError(28, "No space left on device")
        return write(folder, step, *arguments)

    monkeypatch.setattr(checkpointer, "write_state", write_or_fail)
