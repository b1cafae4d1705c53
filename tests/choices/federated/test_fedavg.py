"""`federated=fedavg`, and the settings that all federated choices share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dnntrain import train
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.federated.payload import Payload
from dnntrain.federated.server import MeanServer
from dnntrain.input.split import prepare_data
from dnntrain.planning.checks.early import check_new_run
from dnntrain.report.load_run import read_run
from dnntrain.report.page import render_run
from dnntrain.run.session import open_session
from dnntrain.training.client_batches import ClientBatches, read_column
from dnntrain.training.rounds import RoundExecutor
from dnntrain.training.trainer import build_trainer
from dnntrain.training.trainer_parts import TrainerOutputs
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
        (["federated.dp=local", "reg=[whitening]", "model=small_cnn"], "set from training images"),
        (["federated.dp=central", "quant=qat", "model=mlp"], "ranges of activations would leave clients"),
        (["parallel=ddp", "launch.nproc=2", "quant=qat", "model=mlp"], "does not support quant=qat on 2 ranks"),
    ],
)
def test_methods_that_cannot_work_between_rounds_are_rejected(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", "federated=fedavg", *words)
    assert not (tmp_path / "run").exists()


def test_data_whose_form_is_measured_on_clients_do_not_support_privacy(tmp_path: Path) -> None:
    line = ("data=diabetes", "task=regression", "model=mlp", "federated=fedavg", f"run_dir={tmp_path}/run")
    with pytest.raises(ConfigError, match="measured on the examples of clients without noise"):
        train(*line, "federated.dp=central", display="quiet")
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


@pytest.mark.parametrize(
    "use", [["data.ignore=[user]"], ["data.group=user"], ["data.categories=[user]", "data.ignore=[]"]]
)
def test_the_column_of_clients_need_not_be_an_input(tmp_path: Path, use: list[str]) -> None:
    # Users that float32 cannot tell apart.
    users = [2**24 + number % 5 for number in range(80)]
    rows = [f"{user},{number},{number}" for number, user in enumerate(users)]
    (tmp_path / "users.csv").write_text("\n".join(["user,age,price", *rows]))
    line = ["data=table", f"data.file={tmp_path}/users.csv", "data.target=[price]", "task=regression", "model=mlp"]
    config = decode_config(compose([*line, *use, "federated=fedavg"]))
    data = prepare_data(config, config.data.build())
    values = read_column(data, "user")
    assert values is not None
    assert len(values) == len(data.train)
    assert set(values) <= {str(user) for user in users}
    assert len(set(values)) > 2
    assert read_column(data, "town") is None


@pytest.mark.slow
def test_clients_begin_with_the_step_count_of_a_new_optimizer(tmp_path: Path) -> None:
    # The same client gives the same weights, whatever client the rank has trained before.
    line = ("model=mlp", "model.hidden=[8]", "optim=lamb", "train.duration=2step", "train.max_examples=64")
    line = (*line, "federated=fedavg", "federated.clients=2", "augment=[]", "federated.local_steps=2")
    session = open_session(decode_config(compose([*line, f"run_dir={tmp_path}/run"])), World())
    trainer = build_trainer(session.setup, Digests("", ""), TrainerOutputs())
    rounds, batches = trainer.loop.executor, trainer.pipeline
    assert isinstance(rounds, RoundExecutor)
    assert isinstance(batches, ClientBatches)
    for set_value in trainer.loop.setters:
        set_value(trainer.loop.progress.get_step_info(0))
    payload = Payload(trainer.model)
    start = payload.read("cpu")
    task = batches.cohorts.plan(0).tasks[0]
    _, first = rounds.train_client(task, 0, start)
    _, again = rounds.train_client(task, 0, start)
    trainer.close()
    assert torch.equal(first, again)
