"""The loss along the directions of a training, by hand and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.explain.directions import draw_direction, find_axes, find_checkpoints
from dnntrain.utils.rng import Key
from tests.support.short_runs import trained


def test_the_axes_are_unit_vectors_with_the_variance_of_the_differences() -> None:
    torch.manual_seed(0)
    differences = torch.randn(5, 40, dtype=torch.float64)
    differences[-1] = 0
    mixes, path, shares = find_axes(differences @ differences.T)
    axes = mixes @ differences
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(path, differences @ axes.T)
    values = torch.linalg.svdvals(differences) ** 2
    torch.testing.assert_close(shares, values[:2] / values.sum())


def test_a_way_along_one_line_has_no_second_axis() -> None:
    differences = torch.tensor([[-3.0, -4.0], [-1.5, -2.0], [0.0, 0.0]], dtype=torch.float64)
    mixes, path, shares = find_axes(differences @ differences.T)
    assert shares.tolist() == pytest.approx([1.0, 0.0])
    assert mixes[1].tolist() == [0.0, 0.0, 0.0]
    assert path[:, 0].abs().tolist() == pytest.approx([5.0, 2.5, 0.0])


def test_a_random_direction_has_the_norm_of_each_filter_and_is_repeated() -> None:
    weights = {"conv": torch.randn(4, 3, 3, 3), "bias": torch.randn(4)}
    first, again = (draw_direction(weights, list(weights), Key(3, "explain")) for _ in range(2))
    assert set(first) == {"conv"}
    assert torch.equal(first["conv"], again["conv"])
    torch.testing.assert_close(first["conv"].flatten(1).norm(dim=1), weights["conv"].flatten(1).norm(dim=1))


@pytest.mark.slow
def test_the_line_passes_the_losses_of_the_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    trained(run, "train.duration=4ep", "checkpoint.keep_last=4", "log.report=false")
    page = tmp_path / "page.html"
    assert main(["explain", str(run), "--count", "1", "--directions", "--path", str(page), "--json"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)["directions"]
    assert "1 of" in output.err
    assert len(found["steps"]) == 4
    assert found["places"][0] == -1
    # The last checkpoint is a place of both lines, and lower than the first one.
    middle = found["places"].index(0)
    assert found["training"][middle] == pytest.approx(found["random"][middle], rel=1e-6)
    assert found["training"][middle] < found["training"][0]
    assert found["plane"]["path"][-1] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert sum(found["plane"]["explained"]) <= 1 + 1e-9
    assert page.read_text().count("<circle") == 4


def test_a_run_with_one_checkpoint_has_no_direction(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-5").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        find_checkpoints(tmp_path)
    assert "has 1" in caught.value.message
    assert "checkpoint.keep_last=20" in str(caught.value.hint)


def test_many_checkpoints_are_thinned_from_the_first_to_the_last(tmp_path: Path) -> None:
    for step in range(1, 101):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    steps = [int(path.name.removeprefix("step-")) for path in find_checkpoints(tmp_path)]
    assert (len(steps), steps[0], steps[-1]) == (20, 1, 100)
    assert steps == sorted(steps)
