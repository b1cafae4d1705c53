"""train.drop_last may change on resume as long as no short step has been trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import comparable, trained

from dnntrain.errors import ConfigError

#: Epochs of two steps, and a third of 8 examples unless it is left out.
LINE = ("train.max_examples=40", "train.batch_size=16", "log.every=1step", "checkpoint.every=1step")


@pytest.mark.slow
def test_a_resumed_run_leaves_out_its_short_steps(tmp_path: Path) -> None:
    trained(tmp_path / "run", *LINE, "train.duration=2step")
    trained(tmp_path / "run", *LINE, "train.duration=2ep", "train.drop_last=true")
    steps = [(row["step"], row["epoch"]) for row in comparable(tmp_path / "run") if row["split"] == "train"]
    assert steps[-2:] == [(3, 1.5), (4, 2.0)]


@pytest.mark.slow
def test_short_steps_that_were_trained_cannot_be_left_out(tmp_path: Path) -> None:
    trained(tmp_path / "run", *LINE, "train.duration=1ep")
    with pytest.raises(ConfigError, match=r"would change the batches of the 3 steps so far") as caught:
        trained(tmp_path / "run", *LINE, "train.duration=2ep", "train.drop_last=true")
    assert "use train.drop_last=false" in str(caught.value)
