"""Quantisation-aware training: the schedule, ranges that follow, real runs on one process and on two."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_pool import Pool
from safetensors.torch import load_file
from short_runs import comparable, environment, result, rows, trained
from stand_ins import built, context
from torch import nn
from two_ranks_qat import trained_alone, trained_on_two_ranks
from warm_process import WarmProcess

from dnntrain import evaluate
from dnntrain.checkpoint.model_card import seal_card
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.choices.quant.qat import Qat, has_reached, update_ranges
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import SingleProcess, StepInfo
from dnntrain.utils.hardware import has_vnni
from dnntrain.utils.units import Duration

SMALL = ("model=resnet_cifar", "model.depth=8", "train.max_examples=160", "train.batch_size=32", "precision=fp32")


def moment(step: int, total: int = 100) -> StepInfo:
    return StepInfo(step, step / 10, step / total)


def test_ranges_are_moving_averages_and_the_first_is_taken_as_it_is() -> None:
    reach, known = torch.tensor([[8.0, 8.0], [1.0, 2.0]]), torch.tensor([False, True])
    reach, known = update_ranges(reach, known, torch.tensor([[-0.5, 3.0], [2.0, 4.0]]), 0.25)
    assert reach.tolist() == [[0, 3], [1.25, 2.5]]
    assert known.tolist() == [True, True]


def test_what_was_not_seen_or_is_not_finite_changes_no_range() -> None:
    before = torch.tensor([[8.0, 8.0], [1.0, 2.0]])
    seen = torch.tensor([[-math.inf, -math.inf], [math.nan, 1.0]])
    reach, known = update_ranges(before, torch.tensor([False, True]), seen, 0.25)
    assert torch.equal(reach, before)
    assert known.tolist() == [False, True]


@pytest.mark.parametrize(("length", "step"), [("30%", 30), ("3ep", 30), ("30step", 30), ("0%", 0)])
def test_a_point_of_the_schedule_is_reached_at_its_step(length: str, step: int) -> None:
    assert has_reached(Duration.parse(length), moment(step))
    assert step == 0 or not has_reached(Duration.parse(length), moment(step - 1))


def test_the_schedule_is_a_function_of_the_step() -> None:
    parts = Qat(start=Duration(20, "%"), freeze_batch_norm=Duration(50, "%"), freeze_observers=Duration(70, "%")).build(
        context()
    )
    observes, rounds, follows = (control.value for control in parts.scheduled_values)
    assert [bool(observes(moment(step))) for step in (0, 69, 70)] == [True, True, False]
    assert [bool(rounds(moment(step))) for step in (0, 19, 20)] == [False, False, True]
    assert [bool(follows(moment(step))) for step in (0, 49, 50)] == [True, True, False]
    # No range is known in the first step.
    assert not Qat().build(context()).scheduled_values[1].value(moment(0))
    assert Qat().build(context()).scheduled_values[1].value(moment(1))


def test_frozen_batch_normalisation_keeps_its_statistics_in_training() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    parts = Qat().build(context())
    model = parts.model_transforms[0].apply(model).train()
    for control in parts.scheduled_values:
        control.target(model)(float(control.value(moment(70))))  # type: ignore[operator]
    before = model[1].running_mean.clone()
    model(torch.randn(4, 1, 8, 8))
    assert torch.equal(model[1].running_mean, before)
    assert model.training


def test_a_step_of_several_micro_batches_is_one_observation() -> None:
    def after(parts_of: list[torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        parts = Qat().build(context())
        parts.model_transforms[0].apply(model)
        hook = parts.after_step_hooks[1]
        hook.bind(built(model))  # type: ignore[attr-defined]
        parts.scheduled_values[0].target(model)(1.0)  # type: ignore[operator]
        for part in parts_of:
            model(part)
        hook(moment(0))
        found: torch.Tensor = model[1].input_reach
        return found

    images = torch.randn(6, 1, 8, 8)
    assert torch.equal(after([images]), after([images[:2], images[2:]]))
    assert after([images]).tolist() == [-images.min().item(), images.max().item()]


def test_ranks_with_statistics_of_their_own_go_on_with_their_mean() -> None:
    """The other rank's statistics are 0."""
    model = nn.Sequential(nn.BatchNorm2d(2))
    nn.init.constant_(model[0].running_mean, 3.0)
    hook = Qat(freeze_batch_norm=Duration(50, "%")).build(context()).after_step_hooks[0]
    hook.bind(replace(built(model), collectives=SingleProcess(data_ranks=2)))  # type: ignore[attr-defined]
    hook(moment(48))
    assert model[0].running_mean.tolist() == [3, 3]
    hook(moment(49))
    assert model[0].running_mean.tolist() == [1.5, 1.5]
    assert model[0].running_var.tolist() == [0.5, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputed_activations_change_no_weight(kind: str, tmp_path: Path) -> None:
    line = (*SMALL, "train.duration=6step", "quant=qat")
    trained(tmp_path / "kept", *line)
    trained(tmp_path / "again", *line, f"train.activation_checkpointing={kind}")
    assert result(tmp_path / "again")["digest"] == result(tmp_path / "kept")["digest"]


@pytest.mark.parametrize(
    "knobs", [{"start": Duration(9, "s")}, {"start": Duration(100, "%")}, {"freeze_observers": Duration(0, "ep")}]
)
def test_a_schedule_that_cannot_be_is_refused(knobs: dict[str, Duration]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        Qat(**knobs).build(context())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("norm=per_rank", "norm.precise_bn_batches=2"), r"norm\.precise"),
        (("parallel=fsdp",), "whole model"),
    ],
)
def test_combinations_that_cannot_be_are_refused_before_training(
    words: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        trained(tmp_path / "run", *SMALL, "quant=qat", *words)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_float_run_starts_it_and_what_it_leaves_has_the_names_of_one(tmp_path: Path) -> None:
    trained(tmp_path / "float", *SMALL, "train.duration=2ep")
    trained(tmp_path / "qat", *SMALL, "train.duration=1ep", "quant=qat", f"init_from={tmp_path / 'float'}")
    names = [set(load_file(tmp_path / run / "model.safetensors")) for run in ("float", "qat")]
    assert names[0] == names[1]


@pytest.mark.slow
def test_two_ranks_train_the_run_of_one_process(pool: Pool, tmp_path: Path) -> None:
    line = ("model=mlp", "model.hidden=[16]", "train.max_examples=160", "train.batch_size=32", "train.duration=20step")
    line = (*line, "precision=fp32", "quant=qat", "log.every=1step", "log.report=false", "checkpoint.every=20step")
    assert not pool.train(1, line, tmp_path / "one").error
    assert not pool.train(2, [*line, "parallel=ddp"], tmp_path / "two").error
    losses = [[row["loss"] for row in rows(tmp_path / run) if row["split"] == "train"] for run in ("one", "two")]
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    ranges = [
        read_checkpoint(tmp_path / run / "checkpoints" / "step-20").states["quant"]["reach"] for run in ("one", "two")
    ]
    for name, reach in ranges[0].items():
        assert ranges[1][name].tolist() == pytest.approx(reach.tolist(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=small_cnn",),
        ("model=resnet_cifar", "model.depth=8", "norm=group"),
        ("model=resnet_cifar", "model.depth=8", "quant.freeze_batch_norm=0%"),
    ],
)
def test_two_ranks_are_bitwise_one_process_that_accumulates_their_micro_batches(
    words: tuple[str, ...], pool: Pool, tmp_path: Path
) -> None:
    """In float32. The statistics of batch normalisation, where they move, are each rank's own, or of both together (norm=sync)."""
    line = (
        *words,
        "train.max_examples=160",
        "train.batch_size=32",
        "train.duration=20step",
        "precision=fp32",
        "quant=qat",
    )
    line = (*line, "log.every=1step", "log.report=false", "eval.every=20step", "eval.run_test=false")
    assert not pool.train(1, [*line, "train.micro_batch_size=16"], tmp_path / "one").error
    assert not pool.train(2, [*line, "parallel=ddp"], tmp_path / "two").error
    losses = [[row["loss"] for row in rows(tmp_path / run) if row["split"] == "train"] for run in ("one", "two")]
    assert len(losses[0]) == 20
    assert losses[1] == losses[0]
    assert result(tmp_path / "two")["digest"] == result(tmp_path / "one")["digest"]


@pytest.mark.slow
def test_two_ranks_round_convolutions_as_one_process_does(tmp_path: Path) -> None:
    """In float64: in float32 a last digit decides now and then which integer a number becomes, and a network follows."""
    losses, reach = trained_alone()
    for rank_losses, rank_reach in trained_on_two_ranks(tmp_path):
        assert rank_losses == pytest.approx(losses, rel=1e-5)
        assert torch.allclose(rank_reach, reach, rtol=1e-5)
    assert losses[-1] < losses[0]


def start(folder: Path, *words: str) -> WarmProcess:
    return WarmProcess((*words, f"run_dir={folder}", "--quiet"))


def stopped(folder: Path, step: int, *words: str) -> None:
    """Starts a run and asks it to stop once it has logged `step` rows."""
    process = start(folder, *words)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= step):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 17])
def test_stopped_and_resumed_it_ends_bitwise_the_same(step: int, tmp_path: Path) -> None:
    line = (
        *SMALL,
        "train.duration=24step",
        "quant=qat",
        "log.every=1step",
        "log.report=false",
        "train.micro_batch_size=16",
    )
    assert start(tmp_path / "whole", *line).wait(60) == 0
    stopped(tmp_path / "parts", step, *line)
    assert start(tmp_path / "parts", *line).wait(60) == 0
    assert result(tmp_path / "parts")["digest"] == result(tmp_path / "whole")["digest"]
    assert comparable(tmp_path / "parts") == comparable(tmp_path / "whole")


@pytest.fixture(scope="module")
def qat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qat") / "run"
    trained(path, *SMALL, "train.duration=2ep", "quant=qat")
    return path


@pytest.mark.slow
def test_a_run_is_read_again_with_the_rounding_it_was_tested_with(qat_run: Path) -> None:
    again = evaluate(str(qat_run))
    assert again["accuracy"] == pytest.approx(result(qat_run)["value"])
    assert again["loss"] == pytest.approx(rows(qat_run)[-1]["loss"], rel=1e-3)


def test_damaged_ranges_are_said_to_be(qat_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(qat_run, copied)
    card = json.loads((copied / "config.json").read_text())
    del card["dnntrain"]["quantized_ranges"]["head.input"]
    (copied / "config.json").write_text(json.dumps(seal_card(card)))
    with pytest.raises(CheckpointError, match=r"head\.input"):
        evaluate(str(copied))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx_int8", "pt2_int8"])
def test_an_integer_export_uses_the_ranges_that_were_trained(name: str, qat_run: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    assert main(["export", str(qat_run), f"--format={name}", f"--path={path}"]) == 0
    details = json.loads((path / "manifest.json").read_text())["details"]
    assert details["census"]["shares"]["int8"] > 0.99
    # Without VNNI weights keep 7 bits of the 8 that were trained.
    assert details["parity"]["agreement"] > (0.97 if has_vnni() else 0.93)
    assert details["parity"]["drop"] <= 0.01


@pytest.mark.slow
def test_what_was_not_trained_for_integers_is_not_exported_so(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(short_run), "--format=onnx_int8", "quant=qat"]) == 2
    assert "quant=int8_static" in capsys.readouterr().err


def test_a_float_export_is_of_the_float_network(qat_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(qat_run), "--format=safetensors", f"--path={tmp_path / 'out'}"]) == 0
    weights = [load_file(path / "model.safetensors") for path in (qat_run, tmp_path / "out")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


@pytest.mark.long
def test_with_averages_a_teacher_mixup_and_two_ranks_it_trains_resumes_and_exports(tmp_path: Path) -> None:
    trained(tmp_path / "teacher", *SMALL, "train.duration=2ep")
    line = (
        *(*SMALL, "train.duration=24step", "quant=qat", "distill=kd", f"distill.teacher={tmp_path / 'teacher'}"),
        *(
            "reg=[]",
            "augment=[crop,flip,mixup]",
            "average=[ema]",
            "norm=sync",
            "parallel=ddp",
            "launch.nproc=2",
            "log.every=1step",
            "log.report=false",
        ),
    )
    assert start(tmp_path / "whole", *line).wait(120) == 0
    stopped(tmp_path / "parts", 8, *line)
    assert start(tmp_path / "parts", *line).wait(120) == 0
    assert result(tmp_path / "parts")["digest"] == result(tmp_path / "whole")["digest"]
    assert comparable(tmp_path / "parts") == comparable(tmp_path / "whole")
    assert evaluate(str(tmp_path / "parts"))["accuracy"] == pytest.approx(result(tmp_path / "parts")["value"], abs=0.01)
    path = tmp_path / "export"
    assert main(["export", str(tmp_path / "parts"), "--format=onnx_int8", f"--path={path}"]) == 0
    assert json.loads((path / "manifest.json").read_text())["details"]["census"]["shares"]["int8"] > 0.99


@pytest.mark.slow
def test_gradients_on_two_ranks_lie_as_the_buckets_do(tmp_path: Path) -> None:
    line = (*SMALL, "train.duration=2step", "quant=qat", "parallel=ddp", "launch.nproc=2", "log.report=false")
    command = [sys.executable, "-m", "dnntrain", *line, "train.channels_last=on", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "strides" not in done.stderr
