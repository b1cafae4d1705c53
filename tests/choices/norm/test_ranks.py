"""On two real ranks a network with batch normalisation trains the run of one process, with statistics recomputed before evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from short_runs import comparable, result, trained

#: Batches of 40: five pair blocks, of which the second rank gets three; the last batch of an epoch has 10 examples.
LINE = (
    "model=custom",
    "model.name=Net",
    "train.max_examples=100",
    "train.batch_size=40",
    "train.duration=20step",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "augment.crop.padding=1",
    "optim=sgd",
    "optim.lr=0.01",
    "eval.max_examples=40",
    "reg=[]",
    "average=[ema]",
)


#: Not deep: rounding grows by a factor of ten a step in a deep network with batch normalisation, also between two memory formats.
NETWORK = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__(
            nn.Conv2d(in_channels, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("norm=sync", "norm.precise_bn_batches=2"),
        ("norm=ghost", "norm.virtual_batch_size=4", "norm.precise_bn_batches=2"),
    ],
    ids=lambda words: str(words[0]),
)
def test_two_ranks_train_the_run_of_one_process(
    words: tuple[str, ...], tmp_path: Path, dnntrain: Callable[..., CompletedProcess[str]]
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    line = (*LINE, *words, f"model.file={tmp_path}/net.py")
    trained(tmp_path / "one", *line)
    two = dnntrain(*line, "parallel=ddp", "launch.nproc=2", f"run_dir={tmp_path}/two", timeout_s=280)
    assert two.returncode == 0, two.stderr
    ours, theirs = comparable(tmp_path / "two"), comparable(tmp_path / "one")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    assert [row.get("accuracy") for row in ours] == [row.get("accuracy") for row in theirs]
    assert result(tmp_path / "two")["value"] == result(tmp_path / "one")["value"]
