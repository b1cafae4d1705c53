"""PowerSGD: what it carries from step to step is saved, on each rank its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from methods import BASE, line
from rank_pool import Pool
from short_runs import broken_off, comparable, result
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState

from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.distributed.powersgd import START_STEP, PowerSgd
from dnntrain.utils.world import World

#: Layers of 64 × 32, 32 × 32 and 32 × 10 numbers, all large enough to be compressed; it starts with step 10 of 18.
LINE = line(
    *BASE,
    *(
        "model=mlp",
        "model.hidden=[32,32]",
        "parallel=ddp",
        "parallel.grad_compression=powersgd",
        "train.duration=18step",
    ),
    *("checkpoint.every=7step", "eval.every=7step"),
)


@pytest.fixture(scope="module")
def whole(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("powersgd") / "whole"
    outcome = pool.train(2, LINE, path)
    assert not outcome.error, outcome.error
    return path


def saved_numbers(run: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    errors: dict[str, dict[str, torch.Tensor]] = read_checkpoint(run / "checkpoints" / f"step-{step}").states[
        "powersgd"
    ]["errors"]
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 14])
def test_a_run_goes_on_bit_for_bit_before_and_after_it_has_started(
    step: int, whole: Path, pool: Pool, tmp_path: Path
) -> None:
    assert 7 < START_STEP < 14
    broken_off(whole, tmp_path / "run", step)
    outcome = pool.train(2, LINE, tmp_path / "run")
    assert not outcome.error, outcome.error
    assert result(tmp_path / "run")["digest"] == result(whole)["digest"]
    assert comparable(tmp_path / "run") == comparable(whole)
    again, once = saved_numbers(tmp_path / "run", 18), saved_numbers(whole, 18)
    assert all(torch.equal(again[rank]["0"], once[rank]["0"]) for rank in ("0", "1"))


@pytest.mark.slow
def test_each_rank_has_an_error_of_its_own(whole: Path) -> None:
    assert saved_numbers(whole, 7) == {"0": {}, "1": {}}
    first, second = (saved_numbers(whole, 14)[rank]["0"] for rank in ("0", "1"))
    assert first.shape == second.shape == (64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10,)
    assert float(first.abs().max()) > 0
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "parallel.bucket_size_mb=0.004",
            "starts again without the errors of earlier gradients: the errors in the checkpoint are from 2 ranks",
        ),
        ("parallel.grad_compression=none", ""),
    ],
)
def test_it_starts_again_in_other_buckets_and_another_layout_does_without(
    word: str, told: str, whole: Path, pool: Pool, tmp_path: Path
) -> None:
    broken_off(whole, tmp_path / "run", 14)
    outcome = pool.train(2, line(*LINE, word), tmp_path / "run")
    assert not outcome.error, outcome.error
    log = (tmp_path / "run" / "log.txt").read_text()
    assert told in log
    assert ("powersgd starts again" in log) is bool(told)


def test_with_another_number_of_ranks_it_starts_again_and_says_so() -> None:
    hook, said = PowerSGDState(None, start_powerSGD_iter=2), list[str]()
    one = PowerSgd(hook, [6], torch.device("cpu"), World(1, 2), said.append)
    hook.iter, hook.error_dict, hook.p_memory_dict = 7, {0: torch.ones(6)}, {0: torch.ones(2)}
    saved = one.state_dict()
    assert saved["errors"].keys() == {"1"}
    one.load_state_dict(saved)
    assert (hook.iter, hook.error_dict[0].tolist(), said) == (7, [1.0] * 6, [])
    PowerSgd(hook, [6], torch.device("cpu"), World(1, 3), said.append).load_state_dict(saved)
    assert (hook.iter, hook.error_dict, hook.p_memory_dict) == (0, {}, {})
    assert "are from 2 ranks" in said.pop()
    one.load_state_dict({})
    assert "saved without powersgd" in said.pop()


def test_what_is_put_back_is_no_longer_what_a_step_has_written() -> None:
    hook = PowerSGDState(None, start_powerSGD_iter=2)
    carried = PowerSgd(hook, [6], torch.device("cpu"), World(0, 2), [].append)
    before_the_first = carried.snapshot()
    drawn = hook.rng.randint(1000)
    hook.iter, hook.error_dict = 7, {0: torch.ones(6)}
    hook.p_memory_dict, hook.q_memory_dict = {0: torch.ones(2)}, {0: torch.ones(3)}
    put_back = carried.snapshot()
    hook.iter, hook.error_dict[0] = 8, torch.full((6,), torch.nan)
    for factors in (hook.p_memory_dict, hook.q_memory_dict):
        factors[0].fill_(torch.nan)
    put_back()
    assert hook.iter == 7
    assert [float(held[0].sum()) for held in (hook.p_memory_dict, hook.q_memory_dict, hook.error_dict)] == [2, 3, 6]
    before_the_first()
    assert (hook.iter, hook.p_memory_dict, hook.q_memory_dict, hook.error_dict) == (0, {}, {}, {})
    assert hook.rng.randint(1000) == drawn
