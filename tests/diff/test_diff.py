"""`dnntrain diff`: what differs between two runs, and the step and the tensor where they part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from short_runs import trained

from dnntrain.checkpoint.checkpoint_folder import truncate_checkpoints
from dnntrain.cli.main import main
from dnntrain.config.decode import decode_config
from dnntrain.config.saved_config import read_saved_config
from dnntrain.diff.records import find_first_difference, flatten, index_rows, list_differences
from dnntrain.diff.replay import replay_runs

Capture = pytest.CaptureFixture[str]

#: A network that adds 0.001 to one weight of `spare`, which no output depends on, in its `break_at`-th pass.
NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes: int, image_height: int, image_width: int, break_at: int = 0) -> None:
        super().__init__()
        self.first = torch.nn.Linear(image_height * image_width, 8)
        self.spare = torch.nn.Linear(2, 2)
        self.spare.requires_grad_(False)
        self.head = torch.nn.Linear(8, num_classes)
        self.drop = torch.nn.Dropout(0.2)
        self.break_at = break_at
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.passes += 1
            if self.passes == self.break_at:
                with torch.no_grad():
                    self.spare.weight[0, 0] += 0.001
        return self.head(self.drop(self.first(images.flatten(1)).relu()))
"""
LINE = (
    "train.duration=12step",
    "log.every=5step",
    "checkpoint.every=4step",
    "checkpoint.keep_last=9",
    "eval.every=4step",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the network above: the second one breaks in step 7."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "net.py").write_text(NETWORK)
    words = (*LINE, "model=custom", f"model.file={folder / 'net.py'}", "precision=fp32")
    trained(folder / "a", *words)
    trained(folder / "b", *words, "+model.args.break_at=7")
    return folder / "a", folder / "b"


def diff(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["diff", *words, "--json"]) == 0
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


@pytest.mark.slow
def test_the_step_and_the_tensor_of_a_planted_difference_are_found(runs: tuple[Path, Path], capsys: Capture) -> None:
    found = diff(capsys, *map(str, runs), "--trust")
    assert found["configuration"] == [["model.args", {}, {"break_at": 7}]] or found["configuration"] == [
        ["model.args", {}, None],
        ["model.args.break_at", None, 7],
    ]
    assert found["first_row"] is None  # no output depends on the tensor
    assert found["environment"] == found["data"] == []
    assert found["replay"]["start"] == 4
    parting = found["replay"]["parting"]
    assert (parting["step"], parting["batch"], parting["learning_rates"]) == (7, "", None)
    (tensor,) = parting["tensors"]
    assert tensor["name"] == "spare.weight"
    assert tensor["largest_difference"] == pytest.approx(0.001, rel=1e-4)


@pytest.mark.slow
def test_without_checkpoints_both_are_trained_from_the_beginning(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copies = tuple(shutil.copytree(run, tmp_path / run.name) for run in runs)
    truncate_checkpoints(copies[0] / "checkpoints", 0)
    configs = tuple(decode_config(read_saved_config(run)) for run in runs)
    replay = replay_runs((configs[0], configs[1]), (copies[0], copies[1]), 0, 12)
    assert replay.parting is not None
    assert (replay.start, replay.parting.step) == (0, 7)


@pytest.mark.slow
def test_the_same_run_beside_itself_never_parts(runs: tuple[Path, Path]) -> None:
    config = decode_config(read_saved_config(runs[0]))
    assert replay_runs((config, config), (runs[0], runs[0]), 4, 12).parting is None


@pytest.mark.slow
def test_a_foreign_network_is_not_trained_without_trust(runs: tuple[Path, Path], capsys: Capture) -> None:
    assert main(["diff", *map(str, runs)]) == 2
    assert "--trust" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "step", "said"),
    [
        (["seed=7"], 0, "the initial weights differ"),
        (["optim.lr=1e-3"], 1, "its learning rate differs: 0.004 → 0.001"),
        (["augment.crop.padding=1"], 1, "in its batch, the inputs differ"),
        (["train.batch_size=16"], 1, "in its batch, the examples differ"),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_the_cause_in_the_first_step_is_named(
    short_run: Path, words: list[str], step: int, said: str, tmp_path: Path, capsys: Capture
) -> None:
    trained(tmp_path / "other", *words, "train.duration=4step", "eval.run_test=false")
    capsys.readouterr()
    assert main(["diff", str(short_run), str(tmp_path / "other")]) == 0
    output = capsys.readouterr().out
    assert said in output
    assert ("the runs part in step 1" in output) == (step == 1)


def test_equal_runs_are_not_trained_again(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(short_run, tmp_path / "copy")
    assert main(["diff", str(short_run), str(copy)]) == 0
    output = capsys.readouterr().out
    assert "configuration: equal" in output
    assert "training again: no, both runs ended with the same weights" in output


def test_a_run_beside_itself_is_rejected(short_run: Path, capsys: Capture) -> None:
    assert main(["diff", str(short_run), f"{short_run}/../{short_run.name}"]) == 2
    assert "are the same run" in capsys.readouterr().err


def test_nested_values_are_compared_by_key() -> None:
    first, second = (flatten({"a": {"b": value}, "c": [1]}) for value in (1, 2))
    assert list_differences(first, second) == (("a.b", 1, 2),)
    assert list_differences({"x": float("nan")}, {"x": float("nan")}) == ()
    assert list_differences({"run_dir": "a", "y": 1}, {"run_dir": "b"}, without=frozenset({"run_dir"})) == (
        ("y", 1, None),
    )


def test_rows_are_compared_without_their_times() -> None:
    row = {"step": 4, "split": "train", "loss": 1.0, "wall_s": 1.0}
    first = index_rows([row, {**row, "step": 8}])
    second = index_rows([{**row, "wall_s": 2.0}, {**row, "step": 8, "loss": 2.0}])
    found = find_first_difference(first, second)
    assert found is not None
    assert (found.step, found.split, found.values) == (8, "train", (("loss", 1.0, 2.0),))
