"""Several processes on one machine listen on 127.0.0.1 only, however they were started, and unpickle nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from listening import listening_addresses, watch_sockets
from short_runs import environment

from dnntrain.run.rank_agent import find_first_failure
from dnntrain.utils.loopback import is_single_machine, listen_on_loopback

LINE = (
    "train.max_examples=64",
    "train.batch_size=32",
    "train.duration=4step",
    "log.report=false",
    "precision=fp32",
)
TWO = ("parallel=ddp", "launch.nproc=2")

#: Ends a process that unpickles something, apart from what Python's own pools of processes send through pipes.
NO_PICKLE = """
import sys

def refuse(event, arguments):
    if event == "pickle.find_class":
        print("unpickled", arguments, file=sys.stderr, flush=True)
        __import__("os")._exit(99)

sys.addaudithook(refuse)
"""


def outer_interface() -> str:
    """The name of an interface other than the loopback one, or one that does not exist."""
    return next((name for _, name in socket.if_nameindex() if name != "lo"), "eth0")


def run_watched(
    commands: dict[str, list[str]], folder: Path, variables: dict[str, dict[str, str]] | None = None
) -> dict[str, set[str]]:
    """Run the commands side by side; the addresses on which their processes listened, by command line."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(NO_PICKLE)
    environ = environment()
    # What a cluster's profile sets must not open a run of one machine to its network.
    environ |= {"GLOO_SOCKET_IFNAME": outer_interface(), "NCCL_SOCKET_IFNAME": outer_interface()}
    environ["PYTHONPATH"] = os.pathsep.join([str(folder / "hook"), *filter(None, [environ.get("PYTHONPATH")])])
    with ExitStack() as stack:
        processes = {}
        for name, command in commands.items():
            output = stack.enter_context((folder / f"{name}.txt").open("w"))
            processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dnntrain", *command],
                cwd=folder,
                env={**environ, **(variables or {}).get(name, {})},
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            seen = watch_sockets(processes, timeout_s=300)
        finally:
            for process in processes.values():
                process.kill()
    for name, process in processes.items():
        assert process.returncode == 0, (folder / f"{name}.txt").read_text()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (*TWO, *LINE, "run_dir=run"),
        ("-m", *TWO, *LINE, "seed=1,2", "run_dir=run"),
        ("tune", "lr", *TWO, *LINE, "--steps", "10", "--highest", "0.1"),
        ("parallel=fsdp", "launch.nproc=2", *LINE, "run_dir=run"),
    ],
    ids=["train", "sweep", "tune", "fsdp"],
)
def test_all_processes_of_a_run_listen_on_the_loopback_interface(words: tuple[str, ...], tmp_path: Path) -> None:
    seen = run_watched({"run": [*words]}, tmp_path)
    assert any("rank_agent" in line and not line.startswith("dnn rank ") for line in seen)
    assert any(line.startswith("dnn rank ") for line in seen)
    assert {address for addresses in seen.values() for address in addresses} == {"127.0.0.1"}, seen


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None])
def test_ranks_that_are_started_by_hand_listen_on_the_loopback_interface(host: str | None, tmp_path: Path) -> None:
    with listen_on_loopback() as listener:
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_PORT": port, "MASTER_ADDR": host or socket.gethostname()}
    shared |= {} if host else {"LOCAL_WORLD_SIZE": "2"}
    ranks = {str(rank): {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)}
    words = ["parallel=ddp", *LINE, "run_dir=run"]
    seen = run_watched(dict.fromkeys(ranks, words), tmp_path, ranks)
    assert {address for addresses in seen.values() for address in addresses} == {"127.0.0.1"}, seen


def test_the_addresses_of_sockets_are_read_from_the_kernel() -> None:
    before = listening_addresses(os.getpid())
    with socket.create_server(("0.0.0.0", 0)), listen_on_loopback():
        assert listening_addresses(os.getpid()) == before | {"0.0.0.0", "127.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "single"),
    [
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node0"}, True),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node0"}, False),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, True),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "::1"}, True),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}, False),
        ({}, False),
    ],
)
def test_one_machine_is_known_from_the_environment(environ: dict[str, str], single: bool) -> None:
    assert is_single_machine(environ) is single


def test_a_killed_rank_is_the_cause_of_those_that_end_with_it() -> None:
    assert find_first_failure({0: 1, 1: -9}) == (1, -9)
    assert find_first_failure({0: -15, 1: 1, 2: 3}) == (0, -15)
    assert find_first_failure({1: 2, 2: 2}) == (1, 2)
