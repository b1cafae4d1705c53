"""`train.profile`: a Chrome trace of some steps of each rank, named in the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rank_pool import Pool

from dnntrain.cli.main import main
from dnntrain.training.step_trace import list_traces
from tests.support.short_runs import comparable, result, trained

LINE = ("model=mlp", "train.max_examples=128", "train.batch_size=16", "train.duration=16step", "log.report=false")
TRANSFORMER = ("model=vit_tiny", "model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.patch_size=2")
PHASES = {"data wait", "optimizer"}


def read_names(path: Path) -> list[str]:
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return [event["name"] for event in events if event.get("cat") == "user_annotation"]


@pytest.mark.slow
def test_the_steps_of_a_run_are_traced_and_its_numbers_stay(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", *LINE)
    traced = trained(tmp_path / "traced", *LINE, "train.profile=3step")
    assert traced["traces"] == ["traces/rank_0-step_6.json"]
    assert "traces" not in plain
    names = read_names(tmp_path / "traced" / "traces" / "rank_0-step_6.json")
    for phase in ("data wait", "forward", "backward", "optimizer"):
        assert names.count(phase) == 3
    assert traced["digest"] == plain["digest"]
    assert comparable(tmp_path / "traced") == comparable(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "phases"),
    [
        (("parallel=ddp",), {"forward", "backward"}),
        (("parallel=fsdp",), {"forward", "backward"}),
        (("parallel=tp", *TRANSFORMER), {"forward", "backward"}),
        (("parallel=pp", *TRANSFORMER), {"forward and backward"}),
    ],
    ids=["ddp", "fsdp", "tp", "pp"],
)
def test_each_rank_writes_its_trace(layout: tuple[str, ...], phases: set[str], pool: Pool, tmp_path: Path) -> None:
    words = ["train.duration=8step", "train.profile=2step", "precision=fp32", "train.compile=off"]
    line = [word for word in LINE if not word.startswith(("train.duration", "model"))]
    model = [] if any(word.startswith("model") for word in layout) else ["model=mlp"]
    outcome = pool.train(2, [*line, *model, *words, *layout], tmp_path / "run", timeout_s=300)
    assert outcome.error == ""
    assert list_traces(tmp_path / "run") == ("traces/rank_0-step_6.json", "traces/rank_1-step_6.json")
    assert result(tmp_path / "run")["traces"] == list(list_traces(tmp_path / "run"))
    for name in list_traces(tmp_path / "run"):
        assert PHASES | phases <= set(read_names(tmp_path / "run" / name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.profile=30s"], "train.profile=30s cannot be converted to steps"),
        (["train.profile=50step", "train.duration=20step"], "must be at most the 20 steps of the run"),
    ],
)
def test_a_trace_that_cannot_be_made_is_rejected(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "train.max_examples=100", *words]) == 2
    assert message in capsys.readouterr().err
