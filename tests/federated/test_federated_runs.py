"""What federated runs promise: one client is the central run, ranks and order change no bit, a resumed run is the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rank_pool import Pool
from safetensors.torch import load_file

from dnntrain import train
from dnntrain.federated import rules
from dnntrain.training import rounds
from tests.support.methods import SCENES
from tests.support.short_runs import broken_off, comparable, rows, trained
from tests.support.small_texts import write_texts

MLP = ("model=mlp", "model.hidden=[16]", "train.max_examples=320", "log.every=1step")
SGD = ("optim=sgd", "optim.momentum=0", "optim.lr=0.1", "sched=constant")
#: Clients with every fault, a form of updates with errors that last, and controls.
FULL = (
    *("federated.clients=7", "federated.fraction=0.7", "federated.rounds=5"),
    *("federated.partition=dirichlet", "federated.drop_rate=0.2", "federated.straggler_rate=0.5"),
    *("federated.compress=int8", "federated.local_epochs=2", "train.duration=60ep"),
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


def weights(run: Path) -> torch.Tensor:
    return torch.cat([value.reshape(-1).double() for _, value in sorted(load_file(run / "model.safetensors").items())])


#: Tasks whose batches are not rows of images alone.
MASKS = (
    *("task=segmentation", *SCENES, "model=unet", "model.width=4", "model.depth=2", "norm=group"),
    *("augment=[rotation]", "train.batch_size=16", "train.max_examples=32", "reg=[]"),
)
TOKENS = (
    *("task=language_model", "data=text", "data.context=16", "data.val_fraction=0.1", "data.test_fraction=0.1"),
    *("model=gpt", "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "train.max_examples=65"),
    *("augment=[]", "reg=[]", "precision=fp32"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp", "model.hidden=[16]", "train.max_examples=320"),
        ("model=resnet20", "model.width=4", "train.max_examples=320"),
        MASKS,
        TOKENS,
    ],
    ids=["mlp", "resnet20", "masks", "tokens"],
)
def test_one_client_is_bitwise_the_central_run(words: tuple[str, ...], tmp_path: Path) -> None:
    if "data=text" in words:
        words = (*words, f"data.path={write_texts(tmp_path / 'texts')}")
    line = (*words, *SGD, "log.every=1step", "log.report=false", "eval.weights=last", "eval.run_test=false")
    central = train(*line, "train.duration=12step", f"run_dir={tmp_path}/central", display="quiet")
    clients = ("federated=fedavg", "federated.clients=1", "federated.local_steps=4", "train.duration=3step")
    one = train(*line, *clients, f"run_dir={tmp_path}/one", display="quiet")
    assert one["digest"] == central["digest"]
    report = json.loads((tmp_path / "one" / "federated.json").read_text())
    assert bool(report["class_counts"]) == ("model=mlp" in words or "model=resnet20" in words)


@pytest.mark.slow
def test_a_local_step_of_iid_clients_is_a_step_on_all_of_their_examples(tmp_path: Path) -> None:
    line = (*MLP, *SGD, "train.duration=1step", "eval.weights=last", "train.batch_size=320", "precision=fp32")
    trained(tmp_path / "central", *line)
    trained(tmp_path / "clients", *line, "federated=fedavg", "federated.clients=5", "federated.local_steps=1")
    assert (weights(tmp_path / "clients") - weights(tmp_path / "central")).abs().max() < 1e-6


@pytest.mark.slow
def test_scaffold_with_zero_controls_is_fedavg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = (*MLP, *SGD, "federated.clients=3", "federated.partition=shards", "train.duration=3step")
    average = trained(tmp_path / "fedavg", *line, "federated=fedavg")
    scaffold = trained(tmp_path / "scaffold", *line, "federated=scaffold")
    assert scaffold["digest"] != average["digest"]
    monkeypatch.setattr(rules.Controls, "finish_round", lambda self, clients, reduce: None)
    assert trained(tmp_path / "zero", *line, "federated=scaffold")["digest"] == average["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["scaffold", "median", "fedadam"])
def test_ranks_and_the_order_of_clients_change_no_bit(
    choice: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [
        *MLP,
        *SGD,
        *FULL,
        f"federated={choice}",
        "log.report=false",
        "augment=[crop,mixup]",
        "augment.crop.padding=0",
    ]
    alone = trained(tmp_path / "alone", *line)
    for ranks in (2, 3):
        several = pool.train(ranks, [*line, "parallel=ddp"], tmp_path / f"{ranks}")
        assert not several.error
        assert several.result["digest"] == alone["digest"]
    share = rounds.share_tasks
    monkeypatch.setattr(rounds, "share_tasks", lambda tasks, ranks: [part[::-1] for part in share(tasks, ranks)])
    assert trained(tmp_path / "reversed", *line)["digest"] == alone["digest"]


@pytest.mark.slow
def test_a_run_that_is_killed_in_any_round_is_continued_bit_for_bit(tmp_path: Path) -> None:
    line = (*MLP, *SGD, *FULL, "federated=scaffold", "checkpoint.keep_last=9")
    whole = trained(tmp_path / "whole", *line)
    for step in (1, 3, 4):
        broken_off(tmp_path / "whole", tmp_path / f"{step}", step)
        assert trained(tmp_path / f"{step}", *line)["digest"] == whole["digest"]
        assert comparable(tmp_path / f"{step}") == comparable(tmp_path / "whole")


@pytest.mark.slow
def test_robust_servers_survive_false_updates(tmp_path: Path) -> None:
    line = (*MLP, *SGD, "federated.poisoned=0.2", "train.duration=8step", "federated.local_epochs=8")
    accuracy = {
        name: trained(tmp_path / name, *line, f"federated={name}")["best"]
        for name in ("fedavg", "median", "krum", "trimmed_mean")
    }
    assert accuracy["fedavg"] < 0.5
    assert min(accuracy["median"], accuracy["krum"], accuracy["trimmed_mean"]) > 0.6, accuracy


@pytest.mark.slow
def test_int8_updates_are_a_quarter_of_the_bytes_and_train_as_well(tmp_path: Path) -> None:
    line = (*MLP, *SGD, "federated=fedavg", "train.duration=6step", "federated.local_epochs=4")
    plain = trained(tmp_path / "plain", *line)
    rounded = trained(tmp_path / "int8", *line, "federated.compress=int8")
    last = [[row for row in rows(tmp_path / name) if row["split"] == "train"][-1] for name in ("plain", "int8")]
    assert last[1]["mb_up"] <= 0.26 * last[0]["mb_up"]
    assert last[1]["mb_down"] == last[0]["mb_down"]
    assert abs(rounded["best"] - plain["best"]) < 0.1
