"""How many threads compute, how they wait, and whether others use the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from short_runs import environment, trained

from dnntrain.utils.hardware import get_default_threads, use_threads
from dnntrain.utils.machine_load import describe_load
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.threads import (
    FLOPS_PER_THREAD,
    PASSIVE_WAIT,
    WAIT_VARIABLES,
    compute_threads,
    count_available_threads,
    make_wait_variables,
    read_saved_threads,
)


@pytest.mark.parametrize("name", WAIT_VARIABLES)
def test_a_way_of_waiting_that_the_user_chose_stays(name: str) -> None:
    assert make_wait_variables({name: "1"}) == {}


def test_threads_wait_a_short_time_by_default() -> None:
    assert set(make_wait_variables({"OMP_NUM_THREADS": "2"})) == {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


def test_passive_threads_do_not_spin_for_the_count_that_the_parent_set() -> None:
    assert {**make_wait_variables({}), **PASSIVE_WAIT}["GOMP_SPINCOUNT"] == "0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-c", "import dnntrain; {look}"], "false"),
        (["-c", "import torch, dnntrain; {look}"], "true"),
    ],
)
def test_a_process_has_the_variable_before_torch_is_loaded(words: list[str], expected: str) -> None:
    look = "import os, sys, json; print(json.dumps([os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules]))"
    environ = {name: value for name, value in environment().items() if name not in WAIT_VARIABLES}
    command = [sys.executable, *(word.format(look=look) for word in words)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f'["{make_wait_variables({})["GOMP_SPINCOUNT"]}", {expected}]'


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP tells its settings")
def test_openmp_itself_has_read_the_variable() -> None:
    environ = {name: value for name, value in environment().items() if name not in WAIT_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", "import dnntrain, torch"],
        env={**environ, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{make_wait_variables({})['GOMP_SPINCOUNT']}'" in done.stderr


@pytest.mark.parametrize(
    ("work", "available", "threads"),
    [(0, 8, 1), (1.9, 8, 1), (2, 8, 2), (5.5, 8, 5), (1000, 8, 8), (1000, 1, 1)],
)
def test_an_operator_gets_a_thread_for_each_share_of_work(work: float, available: int, threads: int) -> None:
    assert compute_threads(work * FLOPS_PER_THREAD, available) == threads


@pytest.mark.parametrize(
    ("local_ranks", "environ", "threads"),
    [(1, {}, 6), (2, {}, 4), (16, {}, 1), (2, {"OMP_NUM_THREADS": "6"}, 6)],
)
def test_ranks_share_the_cores(local_ranks: int, environ: dict[str, str], threads: int) -> None:
    assert count_available_threads(6, 8, local_ranks, environ) == threads


@pytest.mark.parametrize(
    ("plan", "threads"), [({"threads": 2}, 2), ({"threads": 9}, None), ({"threads": "2"}, None), ({}, None)]
)
def test_saved_threads_are_used_again_if_there_are_as_many(plan: dict[str, object], threads: int | None) -> None:
    assert read_saved_threads(plan, available=4) == threads


def test_a_second_run_in_a_process_may_have_all_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        use_threads(1)
        assert (torch.get_num_threads(), get_default_threads()) == (1, 3)
        use_threads(2)
        assert (torch.get_num_threads(), get_default_threads()) == (2, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_resumed_run_computes_with_the_saved_number_of_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        trained(tmp_path / "run", "train.duration=1ep")
        plan = json.loads((tmp_path / "run" / "plan.json").read_text())
        assert plan["threads"] == torch.get_num_threads() == 1
        write_sealed_json(tmp_path / "run" / "plan.json", {**plan, "threads": 2})
        trained(tmp_path / "run", "train.duration=2ep")
        assert json.loads((tmp_path / "run" / "plan.json").read_text())["threads"] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("load", "cores", "busy"), [(0.3, 2, False), (1.0, 2, True), (4.0, 64, False), (40, 64, True)])
def test_a_machine_is_busy_by_its_load_and_its_cores(load: float, cores: int, busy: bool) -> None:
    text = describe_load(load, cores)
    assert (text is not None) == busy
    assert text is None or f"programs wanted {load:.1f} of its {cores} cores" in text
