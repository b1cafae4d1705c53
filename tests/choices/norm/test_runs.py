"""Real runs: what is exported is read again and gives the same figures; a choice without effect is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import result, trained

from dnntrain import evaluate
from dnntrain.errors import ConfigError

SMALL = ("model=resnet20", "train.max_examples=64", "train.duration=2ep", "eval.max_examples=64", "precision=fp32")


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["group", "weight_standardization", "ghost"])
def test_an_exported_model_is_read_again_as_it_was_trained(choice: str, tmp_path: Path) -> None:
    trained(tmp_path / "run", *SMALL, f"norm={choice}")
    again = evaluate(str(tmp_path / "run"))
    assert again["accuracy"] == pytest.approx(result(tmp_path / "run")["value"])


def test_a_model_without_batch_normalisation_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"norm=sync.*has none"):
        trained(tmp_path / "run", "model=mlp", "norm=sync")


@pytest.mark.slow
def test_recomputed_statistics_without_an_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"norm\.precise_bn_batches=2"):
        trained(tmp_path / "run", *SMALL, "norm=per_rank", "norm.precise_bn_batches=2", "data.val_fraction=0")
