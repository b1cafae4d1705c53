"""A comparison that is started again, and its table in a small terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dnntrain.errors import Interrupted
from dnntrain.protocols import MetricInfo
from dnntrain.prove import run_prove
from dnntrain.prove.display import EvidenceDisplay
from dnntrain.prove.pairs import Pair, prepare_comparison
from dnntrain.prove.run_prove import ProveOptions, prove_by_training
from dnntrain.prove.verdict import Rules, judge_differences
from dnntrain.utils.json_files import read_json, write_json

ACCURACY = MetricInfo("accuracy", higher_is_better=True, unit="%")


def test_a_verdict_stays_until_there_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise Interrupted("SIGINT")

    monkeypatch.setattr(run_prove, "iterate_pairs", stop)
    comparison = prepare_comparison([f"run_dir={tmp_path / 'pairs'}"], [], ["optim=sgd"])
    path = tmp_path / "pairs" / "prove.json"
    with pytest.raises(Interrupted):
        prove_by_training(comparison, ProveOptions(), "quiet")
    begun = read_json(path)
    assert list(begun) == ["config_digests"]
    write_json(path, {**begun, "verdict": "better"})
    with pytest.raises(Interrupted):
        prove_by_training(comparison, ProveOptions(), "quiet")
    assert read_json(path)["verdict"] == "better"


def test_the_newest_pairs_and_the_evidence_fit_on_the_screen() -> None:
    display = EvidenceDisplay(ACCURACY, Rules(), "plain")
    display._console = Console(file=io.StringIO(), width=80, height=24)
    for number in range(1, 31):
        pair = Pair(number, (number, number), (Path("a"), Path("b")), (0.5, 0.6))
        display._rows.append((pair, judge_differences([0.1] * number, Rules())))
    display._current = "pair 31 of at most 40: A at step 20"
    lines = display._console.render_lines(display._render(), pad=False)
    text = ["".join(segment.text for segment in line).strip() for line in lines]
    assert len(text) < 24
    assert text[-4].startswith("30")
    assert text[-3] == "not shown: the first 13 pairs"
    assert text[-2].startswith("evidence ")
    assert text[-1] == "pair 31 of at most 40: A at step 20"
    assert len(display._console.render_lines(display._make_table())) == 31
