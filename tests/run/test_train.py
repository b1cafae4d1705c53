"""A run from the first step to its report, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from short_runs import SHORT, comparable, result, rows, trained

from dnntrain import evaluate, load, plan, predict, train
from dnntrain.errors import CheckpointError, ConfigError, DataError, DivergedError


@pytest.mark.slow
def test_a_run_leaves_every_file_of_the_contract(tmp_path: Path) -> None:
    train("debug=fast", f"run_dir={tmp_path}/run", display="quiet")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "config.yaml", "overrides.txt", "plan.json", "env.json", "metrics.jsonl", "results.csv", "log.txt", "result.json",
        "evaluation.json", "curves.png", "report.html", "checkpoints", "model.safetensors", "config.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} >= {"step-3", "LAST", "BEST"}


def test_the_result_says_what_was_reached(short_run: Path) -> None:
    outcome = result(short_run)
    assert outcome["status"] == "done"
    assert outcome["metric"] == "accuracy"
    assert 0.3 < outcome["value"] <= 1
    assert outcome["steps"] == 30
    assert outcome["examples_per_s"] > 0
    assert outcome["peak_memory_mb"] > 50
    assert len(outcome["digest"]) == 64


def test_each_step_stands_once_in_the_metrics_and_the_loss_falls(short_run: Path) -> None:
    train_rows = [row for row in rows(short_run) if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert train_rows[-1]["loss"] < 0.6 * train_rows[0]["loss"]
    assert train_rows[-1]["examples"] == 960
    assert [row["step"] for row in rows(short_run) if row["split"] == "val"] == [10, 20, 30]
    with (short_run / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows(short_run))


@pytest.mark.slow
def test_the_same_configuration_gives_the_same_bits(short_run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "again")
    assert result(tmp_path / "again")["digest"] == result(short_run)["digest"]
    assert comparable(tmp_path / "again") == comparable(short_run)


@pytest.mark.slow
def test_another_seed_gives_other_weights(short_run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "other", "seed=1")
    assert result(tmp_path / "other")["digest"] != result(short_run)["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [8, 12])
def test_accumulation_trains_the_same_run(short_run: Path, tmp_path: Path, microbatch: int) -> None:
    whole = trained(tmp_path / "whole", "precision=fp32")
    parts = trained(tmp_path / "parts", "precision=fp32", f"train.micro_batch_size={microbatch}")
    assert whole["steps"] == parts["steps"]
    for a, b in zip(comparable(tmp_path / "whole"), comparable(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_saved_overrides_replay_the_run(short_run: Path, tmp_path: Path) -> None:
    lines = (short_run / "overrides.txt").read_text().splitlines()
    replayed = [line for line in lines if not line.startswith("run_dir=")]
    assert set(SHORT) <= set(replayed)
    train(*replayed, f"run_dir={tmp_path}/replay", display="quiet")
    assert result(tmp_path / "replay")["digest"] == result(short_run)["digest"]


def test_the_saved_configuration_is_resolved(short_run: Path) -> None:
    text = (short_run / "config.yaml").read_text()
    assert "${" not in text
    assert yaml.safe_load(text)["model"]["name"] == "small_cnn"


@pytest.mark.slow
def test_a_run_that_is_done_is_not_trained_again(tmp_path: Path) -> None:
    first = trained(tmp_path / "run")
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    second = trained(tmp_path / "run")
    assert second["digest"] == first["digest"]
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_the_best_weights_are_tested_and_exported(tmp_path: Path) -> None:
    outcome = trained(tmp_path / "run", "optim.lr=0.02", "sched=constant", "train.duration=8ep")
    val = {row["step"]: row["accuracy"] for row in rows(tmp_path / "run") if row["split"] == "val"}
    best = max(val, key=lambda step: (val[step], step))
    assert outcome["best_step"] == best
    assert (tmp_path / "run" / "checkpoints" / "BEST").read_text().strip() == f"step-{best}"
    values = evaluate(tmp_path / "run", split="val")
    assert values["accuracy"] == pytest.approx(val[best], abs=1e-9)


@pytest.mark.slow
def test_averaged_weights_are_evaluated_exported_and_restored(tmp_path: Path) -> None:
    outcome = trained(tmp_path / "run", "reg=[]", "average=[ema]", "eval.weights=last")
    assert evaluate(tmp_path / "run")["accuracy"] == pytest.approx(outcome["test_accuracy"], abs=1e-9)
    from safetensors.torch import load_file

    live = load_file(tmp_path / "run" / "checkpoints" / "step-30" / "state-0.safetensors")
    exported = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in exported.items():
        assert torch.equal(tensor, live[f"ema/average/{name}"])
        assert not torch.equal(tensor, live[f"model/{name}"])


@pytest.mark.slow
def test_early_stopping_ends_the_run_as_done_with_the_reason(tmp_path: Path) -> None:
    outcome = trained(
        tmp_path / "run",
        "monitor=[early_stopping]",
        "monitor.early_stopping.patience=2",
        "train.duration=60ep",
        "eval.every=5step",
    )
    assert outcome["status"] == "done"
    assert "early stopping" in outcome["reason"]
    assert outcome["steps"] < 600
    assert [row["reason"] for row in rows(tmp_path / "run") if row["split"] == "event"] == [outcome["reason"]]


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="step") as caught:
        trained(tmp_path / "run", "optim=sgd", "optim.lr=1e30", "precision=fp32")
    assert caught.value.exit_code == 4
    assert result(tmp_path / "run")["status"] == "diverged"


@pytest.mark.slow
def test_overfit_learns_one_batch_by_heart(tmp_path: Path) -> None:
    train("debug=overfit", "log.report=false", f"run_dir={tmp_path}/run", display="quiet")
    assert [row for row in rows(tmp_path / "run") if row["split"] == "train"][-1]["loss"] < 0.01


@pytest.mark.slow
def test_a_run_by_time_ends_about_when_its_time_is_up(tmp_path: Path) -> None:
    outcome = trained(tmp_path / "run", "train.duration=1s", "eval.every=100ep", "checkpoint.every=100ep")
    assert outcome["steps"] > 5
    assert 0.5 < outcome["train_s"] < 10


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1000 .* 320"):
        trained(tmp_path / "run", "train.batch_size=1000")


def test_a_second_process_in_one_run_directory_is_refused(tmp_path: Path) -> None:
    from dnntrain.run.directory import RunDirectory

    first = RunDirectory.open(str(tmp_path / "run"), "x")
    try:
        with pytest.raises(ConfigError, match="in use by process"):
            RunDirectory.open(str(tmp_path / "run"), "x")
    finally:
        first.close()
    RunDirectory.open(str(tmp_path / "run"), "x").close()


@pytest.mark.slow
def test_other_data_in_the_same_run_directory_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises((ConfigError, DataError)):
        trained(tmp_path / "run", "data=synthetic")


def test_weights_of_another_run_can_be_started_from(short_run: Path, tmp_path: Path) -> None:
    outcome = trained(tmp_path / "run", f"init_from={short_run}", "train.duration=1step", "optim.lr=1e-9")
    assert outcome["value"] == pytest.approx(result(short_run)["value"], abs=0.01)


def test_a_plan_states_the_batch_and_its_parts() -> None:
    made = plan("train.batch_size=96", "train.micro_batch_size=32")
    assert (made.batch_size, made.ranks, made.accumulation, made.micro_batch_size) == (96, 1, 3, 32)
    assert made.total_steps == made.steps_per_epoch * int(made.duration.removesuffix("ep"))


def test_a_loaded_model_gives_the_classes_of_the_run(short_run: Path) -> None:
    loaded = load(short_run)
    assert loaded.spec.output.names == tuple("0123456789")
    assert loaded.spec.inputs.shape == (1, 8, 8)
    assert loaded.model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_images_are_predicted_in_their_order(short_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    from dnntrain.choices.data.digits import Digits

    test = Digits().build().test
    paths = []
    for number in range(24):
        paths.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(test.read(number)[0].numpy()).save(paths[-1])
    found = predict(short_run, paths)
    assert [row["path"] for row in found] == [str(path) for path in paths]
    correct = sum(row["class"] == str(test.labels[number]) for number, row in enumerate(found))
    assert correct / 24 > result(short_run)["value"] - 0.25


def test_an_unfinished_run_has_no_model_to_load(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(CheckpointError, match="no finished model"):
        load(tmp_path)


REGULARISER = '''
"""Adds noise to the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dnntrain.config.fields import NonNegative
from dnntrain.protocols import Batch, BatchStage, BatchTransform, BuildContext, Hooks, RegChoice
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class Noise(RegChoice):
    """images + scale * keyed uniform noise, one number an example."""

    scale: NonNegative = 0.1  # largest shift

    def build(self, context: BuildContext) -> Hooks:
        def shift(batch: Batch, key: Key) -> Batch:
            amount = torch.from_numpy(key.with_stream("noise").uniform(batch.index)).float()
            batch.inputs = batch.inputs + self.scale * amount[:, None, None, None]
            return batch

        return Hooks(batch_transforms=(BatchTransform(BatchStage.AUGMENT, shift),))
'''


@pytest.mark.slow
def test_a_regulariser_of_an_installed_package_trains_without_touching_dnntrain(
    tmp_path: Path, dnntrain: Any, short_run: Path
) -> None:
    package = tmp_path / "site" / "my_methods"
    (package / "reg").mkdir(parents=True)
    (package / "conf" / "reg").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "reg" / "__init__.py").write_text("")
    (package / "reg" / "noise.py").write_text(REGULARISER)
    (package / "conf" / "reg" / "noise.yaml").write_text(
        "# @package reg.noise\n# Noise.\nname: noise\nscale: 0.1 # largest shift\n"
    )
    metadata = tmp_path / "site" / "my_methods-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dnntrain.plugins]\nmine = my_methods\n")
    root = str(Path(__file__).resolve().parents[2])
    path = f"{root}:{tmp_path / 'site'}"
    done = dnntrain(*SHORT, "+reg=[noise]", "reg.noise.scale=0.5", "run_dir=run", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["digest"] != result(short_run)["digest"]
    refused = dnntrain("+reg=[noize]", PYTHONPATH=path)
    assert refused.returncode == 2
    assert "noise" in refused.stderr


def test_every_metric_line_is_strict_json(short_run: Path) -> None:
    for line in (short_run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_going_on_from_a_checkpoint_of_another_run_leaves_whole_lines(short_run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", f"resume={short_run}")
    assert b"\0" not in (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert result(tmp_path / "run")["status"] == "done"


def test_a_monitor_without_a_validation_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="early_stopping"):
        trained(tmp_path / "run", "monitor=[early_stopping]", "data.val_fraction=0")


@pytest.mark.slow
def test_a_full_disk_has_the_exit_code_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the checkpoint has more bytes
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            trained(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    monkeypatch.setattr("dnntrain.training.metrics_writer.Metrics.write_row", full)
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path / "rows")
    assert (result(tmp_path / "rows")["status"], result(tmp_path / "rows")["exit_code"]) == ("failed", 5)
