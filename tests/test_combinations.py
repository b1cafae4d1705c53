"""Random combinations of methods, layouts and schedules: each trains and is gone on with bit for bit, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from combinations import SHORT, WIDE, Combination, Trial, combination
from methods import BASE, TRANSFORMER, line
from rank_pool import Pool
from short_runs import trained

from dnntrain.errors import ConfigError

#: Of the 300 of scripts/run_combinations.py.
_COUNT = 40


@pytest.fixture(scope="module")
def trial(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(pool, tmp_path_factory.mktemp("combinations"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(_COUNT))
def test_a_combination_trains_and_is_gone_on_with_or_is_refused_by_name(number: int, trial: Trial) -> None:
    tried = combination(0, number)
    found = trial.of(tried)
    assert found.kind in ("trained", "refused"), f"{tried}\n{found.note}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        # Three ranks round in an order that depends on where a gradient lies in DDP's buckets.
        pytest.param(3, (*TRANSFORMER, "parallel=ddp"), id="three ranks of ddp"),
        # Copies of a pipeline's stage are DTensors, each whole.
        pytest.param(
            4, ("optim=muon", "parallel=pp", "parallel.pp=2", "parallel.replicate=2"), id="muon on copies of a stage"
        ),
    ],
)
def test_what_random_combinations_found_stays_mended(ranks: int, words: tuple[str, ...], trial: Trial) -> None:
    model = () if "model=vit_tiny" in words else ("model=mlp", "model.hidden=[16,16,16]")
    tried = Combination(1000 + ranks, ranks, line(*BASE, *SHORT, "monitor=[]", "train.max_examples=64", *model, *words))
    found = trial.of(tried)
    assert found.kind == "trained", found.note


def test_combinations_follow_from_their_seed() -> None:
    assert combination(0, 7) == combination(0, 7)
    assert len({combination(0, number).overrides for number in range(300)}) == 300
    assert combination(0, 7).overrides != combination(1, 7).overrides


def test_the_300_have_every_kind_of_parallelism() -> None:
    words = {word for number in range(300) for word in combination(0, number).overrides}
    assert {"parallel=ddp", "parallel=fsdp", "parallel=hsdp", "parallel=tp", "parallel=pp"} <= words


def test_the_300_have_every_task() -> None:
    words = {word for number in range(300) for word in combination(0, number).overrides}
    assert {"task=regression", "task=multilabel", "task=segmentation"} <= words


def test_qat_with_standardised_filters_is_refused_before_a_run_directory_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quant=qat cannot quantize .* norm=weight_standardization"):
        trained(tmp_path / "run", *WIDE, "norm=weight_standardization", "quant=qat")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_qat_with_recomputed_statistics_of_swa_names_swa_and_trains_without_them(tmp_path: Path) -> None:
    words = (
        "model=mlp",
        "quant=qat",
        "reg=[]",
        "average=[swa]",
        "average.swa.every=1step",
        "train.max_examples=64",
        "train.duration=4step",
    )
    refusal = r"because average\.swa\.precise_bn_batches=100 replaces them\n  use average\.swa\.precise_bn_batches=0"
    with pytest.raises(ConfigError, match=refusal):
        trained(tmp_path / "run", *words)
    assert trained(tmp_path / "run", *words, "average.swa.precise_bn_batches=0")["status"] == "done"
