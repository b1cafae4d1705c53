"""`dnntrain prune RUN --sensitivity`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from tests.support.short_runs import trained

RUN = ("model=resnet_cifar", "model.depth=8", "model.width=8", "train.channels_last=off", "train.duration=2step")


def test_without_its_option_the_command_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(tmp_path)]) == 2
    assert "--sensitivity" in capsys.readouterr().err


@pytest.mark.slow
def test_each_group_is_measured_and_shown_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", *RUN, "train.max_examples=64", "eval.max_examples=40")
    assert main(["prune", str(tmp_path / "run"), "--sensitivity", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [group["group"] for group in measured["groups"]] == [f"stages.{stage}.0.conv1" for stage in range(3)]
    assert all(len(group["values"]) == 3 for group in measured["groups"])
    assert json.loads((tmp_path / "run" / "sensitivity.json").read_text())["groups"] == measured["groups"]
    from dnntrain.report.page import write_report

    assert "Sensitivity to cuts" in write_report([tmp_path / "run"]).read_text()
    assert main(["prune", str(tmp_path / "run"), "--sensitivity"]) == 0
    assert "stem.conv: stays, because" in capsys.readouterr().out
