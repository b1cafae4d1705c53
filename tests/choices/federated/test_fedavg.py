"""`federated=fedavg`, and the settings that all federated choices share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dnntrain import train
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.federated.server import MeanServer
from dnntrain.planning.checks.early import check_new_run
from dnntrain.report.load_run import read_run
from dnntrain.report.page import render_run
from dnntrain.utils.world import World
from tests.support.short_runs import trained

START, MEAN = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 1.0], dtype=torch.float64)


def test_the_server_takes_the_mean() -> None:
    assert MeanServer().step(START, MEAN) is MEAN


def test_momentum_adds_earlier_updates() -> None:
    server = MeanServer(0.5, 0.9)
    assert server.step(START, MEAN).tolist() == [2.0, 1.5]
    again = MeanServer(0.5, 0.9)
    again.load_state_dict(server.state_dict())
    assert torch.allclose(again.step(START, MEAN), START + 0.5 * 1.9 * (MEAN - START))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["federated.rounds=3", "train.duration=5ep"], "both set the length"),
        (["federated.alpha=0.1"], "has no effect with federated.partition=iid"),
        (["federated.clip=2"], "has no effect without privacy"),
        (["federated.clients=10000"], r"use federated\.fraction=0\.81 or less"),
        (["federated=scaffold", "federated.dp=central"], "federated=scaffold does not support federated.dp=central"),
        (["federated=scaffold", "federated.dp=local"], "federated=scaffold does not support federated.dp=local"),
        (["train.freeze=[conv1.*]", "train.unfreeze_at=50%"], "does not support train.unfreeze_at"),
        (["data.pipeline=streaming"], "does not support data.pipeline=streaming"),
        (["parallel=fsdp", "launch.nproc=2"], "needs the whole model in one process"),
        (["parallel=tp", "launch.nproc=2"], "needs the whole model in one process"),
        (["parallel=pp", "launch.nproc=2"], "needs the whole model in one process"),
        (["parallel=ddp", "launch.nproc=2", "parallel.grad_compression=bf16"], "grad_compression"),
    ],
)
def test_mistakes_are_found_before_torch_is_needed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_new_run(compose([*(["federated=fedavg"] if words[0] != "federated=scaffold" else []), *words]), World())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune=structured"], "does not support cuts"),
        (["monitor=[loss_spike]"], "does not support monitors of steps"),
        (["optim=schedule_free", "sched=constant"], "schedule_free"),
        (["federated.clients=5000"], "must be <= 320"),
        (["norm=sync", "model=resnet20", "parallel=ddp", "launch.nproc=2"], "does not support norm=sync"),
        (["model=resnet20", "federated.dp=central"], "does not support batch norm"),
    ],
)
def test_methods_that_cannot_work_between_rounds_are_rejected(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", "federated=fedavg", *words)
    assert not (tmp_path / "run").exists()


def test_rounds_are_the_length_of_the_run() -> None:
    config = decode_config(compose(["federated=fedavg", "federated.rounds=7"]))
    assert str(config.train.duration) == "7step"


@pytest.mark.slow
def test_rows_with_one_value_of_a_column_stay_with_one_client(tmp_path: Path) -> None:
    rows = [f"{number % 40},{'abcdef'[number % 6]},{number}" for number in range(120)]
    (tmp_path / "shops.csv").write_text("\n".join(["age,shop,price", *rows]))
    line = ("data=table", f"data.file={tmp_path}/shops.csv", "data.target=[price]", "task=regression", "model=mlp")
    clients = ("federated=fedavg", "federated.partition=by_column", "federated.column=shop", "federated.clients=3")
    short = ("train.duration=1step", "log.report=false")
    train(*line, *clients, *short, f"run_dir={tmp_path}/run", display="quiet")
    report = json.loads((tmp_path / "run" / "federated.json").read_text())
    assert len(report["sizes"]) == 3
    assert max(report["sizes"]) - min(report["sizes"]) < 15
    assert report["metric"] == "rmse"
    assert report["worst_tenth"] > report["mean"] > 0
    page = render_run(read_run(tmp_path / "run")).decode()
    assert "rmse, mean of clients" in page
    assert "mean of the worst tenth" in page
    assert "standard deviation between clients" in page
    with pytest.raises(ConfigError, match=r"federated\.column=town needs a table with this column"):
        train(
            *line,
            *clients[:2],
            *clients[3:],
            *short,
            f"run_dir={tmp_path}/other",
            "federated.column=town",
            display="quiet",
        )
