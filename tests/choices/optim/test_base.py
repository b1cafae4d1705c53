"""What all optimizer choices share: the scaling of rates, the refusals, the state of a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from optimizing import network, optimize
from short_runs import rows, trained

from dnntrain.checkpoint.read_checkpoint import Digests, read_checkpoint, restore_states
from dnntrain.checkpoint.state_dicts import OptimizerState
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
from dnntrain.choices.optim._base import OptimizerChoice, compute_lr_scale
from dnntrain.choices.optim.adam import Adam
from dnntrain.choices.optim.adamw import AdamW
from dnntrain.choices.optim.lion import Lion
from dnntrain.choices.optim.muon import Muon
from dnntrain.choices.optim.radam import RAdam
from dnntrain.choices.optim.sgd import Sgd
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError


def test_rates_scale_with_the_batch_by_the_rule() -> None:
    assert compute_lr_scale("linear", 1024, 256) == 4
    assert compute_lr_scale("sqrt", 1024, 256) == 2
    assert compute_lr_scale("none", 1024, 256) == 1
    muon = Muon(lr=0.1, adam_lr=0.01, lr_scaling="sqrt", lr_base_batch_size=128).adapt_lr(512)
    assert (muon.lr, muon.adam_lr) == (0.2, 0.02)


@pytest.mark.parametrize(
    ("choice", "equation"),
    [
        (Sgd(lr=0.1), "0.1"),
        (Sgd(lr=0.1, lr_scaling="linear"), "0.1 × 1024 / 256 = 0.4 (optim.lr_scaling=linear)"),
        (AdamW(lr=0.001, lr_scaling="sqrt"), "0.001 × √(1024 / 256) = 0.002 (optim.lr_scaling=sqrt)"),
    ],
)
def test_the_equation_is_stated(choice: Sgd, equation: str) -> None:
    assert choice.format_lr_equation(1024) == equation


def test_a_base_batch_without_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="no effect with lr_scaling=none"):
        decode_config(compose(["optim.lr_base_batch_size=128"]))


def test_a_group_rule_is_checked_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="a pattern of parameter names"):
        compose(["optim.param_groups=['head.* lr=10']"])
    config = decode_config(compose(["optim.param_groups=['head.* lr_scale=1e1 weight_decay=0']"]))
    assert config.optim.param_groups == ("head.* lr_scale=1e1 weight_decay=0",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("optim.no_weight_decay=['head.*']", "optim.weight_decay=0"),
            "no_weight_decay has no effect with weight_decay=0",
        ),
        (("optim.param_groups=['head.* lr_scale=1 lr_scale=2']",), "sets a number twice"),
    ],
)
def test_knobs_that_cannot_hold_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode_config(compose(list(words)))


def test_a_run_is_logged_at_the_scaled_rate_whatever_its_groups(tmp_path: Path) -> None:
    words = ("sched=constant", "optim.lr=0.001", "train.batch_size=64", "optim.layer_decay=0.5", "train.duration=8step")
    trained(tmp_path / "run", *words, "optim.lr_scaling=sqrt", "optim.lr_base_batch_size=16")
    rates = [row["lr"] for row in rows(tmp_path / "run") if row["split"] == "train"]
    assert rates
    assert all(math.isclose(rate, 0.002) for rate in rates)


def test_a_pattern_that_matches_nothing_is_refused_by_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    from dnntrain.cli.main import main

    assert main(["plan", "optim.no_weight_decay=['haed.*']"]) == 2
    assert "'haed.*'" in capsys.readouterr().err


def test_every_choice_shares_these_knobs() -> None:
    shared = (
        "lr",
        "weight_decay",
        "no_weight_decay",
        "param_groups",
        "layer_decay",
        "lr_scaling",
        "lr_base_batch_size",
    )
    for choice in load_registry().get_choices("optim").values():
        assert tuple(choice.schema.fields)[: len(shared)] == shared


@pytest.mark.parametrize("choice", [Sgd(), Adam(), AdamW(), RAdam(), Lion(), Muon(param_groups=("4.* lr_scale=0.5",))])
def test_steps_after_a_checkpoint_are_those_of_the_optimizer_that_went_on(
    choice: OptimizerChoice, tmp_path: Path
) -> None:
    model = network()
    optimizers = choice.build(model)
    optimize(model, optimizers, 3)
    other = network()
    other.load_state_dict(model.state_dict())
    restored = choice.build(other)
    saved = save_checkpoint(tmp_path, 3, {"optimizer": OptimizerState(optimizers)}, Digests("", ""))
    restore_states(read_checkpoint(saved), {"optimizer": OptimizerState(restored)})
    optimize(model, optimizers, 3, first=3)
    optimize(other, restored, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


#: Learning rates for a run of thirty steps.
SHORT_RATES = {
    "adafactor": 0.1,
    "lamb": 0.03,
    "lars": 5.0,
    "lion": 1e-3,
    "radam": 0.03,
    "muon": 0.1,
    "sgd": 0.1,
    "nesterov": 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(load_registry().list_names("optim")) - {"custom"}))
def test_every_choice_learns(name: str, tmp_path: Path) -> None:
    trained(tmp_path / "run", f"optim={name}", f"optim.lr={SHORT_RATES.get(name, 6e-3)}", "sched=constant")
    losses = [row["loss"] for row in rows(tmp_path / "run") if row["split"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
