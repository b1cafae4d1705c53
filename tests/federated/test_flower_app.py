"""An exported app: its clients train the steps of the simulation, and Flower runs it over loopback if it is installed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from short_runs import environment

from dnntrain import train
from dnntrain.cli.main import main
from dnntrain.run.deployed_client import DeployedClient

LINE = (
    *("model=mlp", "model.hidden=[16]", "train.max_examples=320", "augment=[]", "optim=sgd", "optim.lr=0.1"),
    *("sched=constant", "eval.weights=last", "log.report=false", "log.every=1step"),
    *("federated=fedavg", "federated.clients=2", "federated.rounds=2"),
)


@pytest.mark.slow
def test_two_deployed_clients_reach_the_simulation(tmp_path: Path) -> None:
    assert main(["federated", "export-app", str(tmp_path / "app"), *LINE]) == 0
    simulated = train(*LINE, f"run_dir={tmp_path / 'run'}", display="quiet")
    clients = [DeployedClient(tmp_path / "app" / "federation", (), number) for number in range(2)]
    weights = clients[0].get_weights()
    for number in range(clients[0].rounds):
        parts = [client.train(weights, number) for client in clients]
        total = sum(figures["num-examples"] for _, figures in parts)
        weights = {
            name: sum(part[name] * (figures["num-examples"] / total) for part, figures in parts) for name in weights
        }
    assert abs(clients[0].evaluate(weights)["accuracy"] - simulated["test_accuracy"]) < 0.01


@pytest.mark.slow
def test_an_app_is_exported_only_if_its_server_can_do_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["federated", "export-app", str(tmp_path / "a"), *LINE[:-3], "federated=scaffold"]) == 2
    assert "takes the mean of the clients" in capsys.readouterr().err
    assert main(["federated", "export-app", str(tmp_path / "a"), *LINE, "federated.dp=local"]) == 2
    assert "belongs to the simulation" in capsys.readouterr().err


@pytest.mark.parametrize(("length", "rounds"), [("7ep", 7), ("5step", 5)])
def test_the_rounds_of_an_app_are_those_of_the_simulation(tmp_path: Path, length: str, rounds: int) -> None:
    line = [word for word in LINE if not word.startswith("federated.rounds")]
    assert main(["federated", "export-app", str(tmp_path / "a"), *line, f"train.duration={length}"]) == 0
    assert f"rounds = {rounds}\n" in (tmp_path / "a" / "pyproject.toml").read_text()


def test_an_app_has_rounds_and_not_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in LINE if not word.startswith("federated.rounds")]
    assert main(["federated", "export-app", str(tmp_path / "a"), *line, "train.duration=90s"]) == 2
    assert "Flower counts rounds" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_flower_trains_the_app_with_two_client_processes(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    assert main(["federated", "export-app", str(tmp_path / "app"), *LINE]) == 0
    simulated = train(*LINE, f"run_dir={tmp_path / 'run'}", display="quiet")
    folder, bin_folder = tmp_path / "app", Path(sys.executable).parent
    variables = {**environment(), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path / "app" / "flower")}
    variables["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    commands = [
        ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"],
        *(
            [
                *("flower-supernode", "--insecure", "--superlink", "127.0.0.1:8000"),
                *("--port", str(9094 + number), "--node-config", f"client={number}"),
            ]
            for number in range(2)
        ),
    ]
    processes = [subprocess.Popen(words, env=variables, cwd=folder, start_new_session=True) for words in commands]
    try:
        wait_for(8000)
        words = ["flwr", "run", ".", "local", "--stream"]
        subprocess.run(words, env=variables, cwd=folder, check=True, timeout=500)
        metrics = json.loads((folder / "final" / "metrics.json").read_text())
    finally:
        # In sessions of their own, since they start processes themselves.
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
        for process in processes:
            process.wait(30)
    assert abs(metrics["accuracy"] - simulated["test_accuracy"]) < 0.02


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port}")
