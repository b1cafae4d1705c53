"""Trials that differ only in the seed and in real numbers share a plan; the values of each are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dnntrain.config.compose import compose
from dnntrain.errors import ConfigError
from dnntrain.sweep import prepare
from dnntrain.sweep.prepare import Sweep, prepare_sweep

LINE = ("model=mlp", "train.max_examples=100", "optim=sgd")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the trials that are planned."""
    numbers: list[int] = []
    prepare_trial = prepare.prepare_trial

    def record(number: int, *rest: Any) -> Any:
        numbers.append(number)
        return prepare_trial(number, *rest)

    monkeypatch.setattr(prepare, "prepare_trial", record)
    return numbers


@pytest.mark.slow
def test_the_first_trial_and_both_ends_of_each_number_are_planned(tmp_path: Path, planned: list[int]) -> None:
    swept = ("optim.lr=0.2,0.1,0.3,0.4", "seed=1,2,3", "model.hidden=[8],[16]")
    sweep = prepare_sweep([*LINE, *swept, f"run_dir={tmp_path}"], quiet=True)
    assert isinstance(sweep, Sweep)
    assert len(sweep.trials) == 24
    # For each network: the first trial (0.2, seed 1), the least and the greatest rate, and the greatest seed.
    assert planned == [1, 2, 5, 6, 7, 8, 19, 20]
    for trial in (sweep.trials[9], sweep.trials[18]):
        assert trial.config == compose([*trial.words, f"run_dir={trial.folder}"], quiet=True)
        assert list(trial.config) == list(sweep.trials[0].config)
        assert trial.total_steps == sweep.trials[0].total_steps
    assert sweep.trials[9].step_flops == sweep.trials[1].step_flops != sweep.trials[0].step_flops


@pytest.mark.slow
def test_values_that_do_not_fit_together_are_named_for_each_trial(tmp_path: Path, planned: list[int]) -> None:
    swept = ("optim.momentum=0.9,0,0.5", "seed=1,2,3")
    with pytest.raises(ConfigError) as refused:
        prepare_sweep([*LINE, "optim.nesterov=true", *swept, f"run_dir={tmp_path}"], quiet=True)
    assert [text.partition(":")[0] for text in refused.value.mistakes] == [
        f"optim.momentum=0 seed={seed}" for seed in (1, 2, 3)
    ]
    assert len(planned) < 9
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_value_out_of_bounds_is_named_wherever_it_is(tmp_path: Path, planned: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"optim.lr=-0.2: -0.2 is not a number above 0"):
        prepare_sweep([*LINE, "optim.lr=0.1,-0.2,0.3", "seed=1,2", f"run_dir={tmp_path}"], quiet=True)
    assert planned == []
