"""The report of a comparison calls a difference beyond noise only by the evidence of pairs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from dnntrain.config.compose import compose
from dnntrain.config.saved_config import write_saved_config
from dnntrain.errors import ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import choose_split, describe_split
from dnntrain.prove.noise import group_variants, render_noise
from dnntrain.prove.run_sets import pair_runs
from dnntrain.utils.sealed_json import read_sealed_json, write_sealed_json

METRICS = [{"name": "accuracy", "higher_is_better": True, "unit": "%"}]


@pytest.fixture(scope="module")
def configs() -> list[dict]:
    return [compose(words, quiet=True) for words in ([], ["optim=sgd"])]


def make_runs(folder: Path, configs: Sequence[dict], gain: float, count: int) -> list[Path]:
    """Write finished runs of two variants; the second is better by about `gain` for each seed."""
    paths = []
    for seed in range(count):
        for side, config in enumerate(configs):
            path = folder / f"{'ab'[side]}{seed}"
            path.mkdir()
            write_saved_config(path, {**config, "seed": seed})
            value = 0.9 + 0.01 * (seed % 3) + side * gain * (1 + 0.1 * (seed % 2))
            write_sealed_json(path / "result.json", {"status": "done", "metric": "accuracy", "best": value})
            write_sealed_json(path / "plan.json", {"name": "run", "metrics": METRICS})
            paths.append(path)
    return paths


def test_runs_that_differ_in_their_seed_only_are_one_variant(tmp_path, configs):
    paths = make_runs(tmp_path, configs, 0.02, 3)
    write_sealed_json(paths[0] / "result.json", {"status": "failed"})
    variants = group_variants(paths)
    assert [sorted(variant.runs) for variant in variants] == [[0, 1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("gain", "count", "text"),
    [
        (0.02, 8, "yes: better"),
        (-0.02, 8, "yes: worse"),
        (0.02, 1, "not shown"),
        (0.02, 5, "not shown, about 6 pairs needed"),
    ],
)
def test_the_evidence_decides(tmp_path, configs, gain, count, text):
    assert text in render_noise(make_runs(tmp_path, configs, gain, count))


def test_one_variant_has_nothing_to_compare(tmp_path, configs):
    assert render_noise(make_runs(tmp_path, configs[:1], 0.0, 3)) == ""


def test_a_single_tested_run_is_compared_on_the_split_that_all_have(tmp_path, configs):
    paths = make_runs(tmp_path, configs, 0.0, 8)
    metric = MetricInfo("accuracy", higher_is_better=True, unit="%")
    for path in paths[1::2][:7]:
        write_sealed_json(path / "evaluation.json", {"split": "test", "accuracy": 0.99})
    assert "yes" not in render_noise(paths)
    assert choose_split(paths, metric) == "val"
    assert choose_split(paths[1:2], metric) == "test"
    assert describe_split(paths[1:2], metric) == ()
    (note,) = pair_runs(paths[::2], paths[1::2], metric)[1]
    assert "validation split" in note
    assert {pair.difference for pair in pair_runs(paths[::2], paths[1::2], metric)[0]} == {0.0}


def test_a_run_counts_once_even_as_a_copy(tmp_path, configs):
    first, other = make_runs(tmp_path, configs[:1], 0.0, 2)
    for run in (first, other):
        write_sealed_json(
            run / "result.json",
            {**read_sealed_json(run / "result.json"), "config_digest": run.name, "digest": "weights"},
        )
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    metric = MetricInfo("accuracy", True, "%")
    for twice in ([first, first], [first, copy]):
        for runs_a, runs_b in ((twice, [first, other]), ([first, other], twice)):
            with pytest.raises(ConfigError, match="are the same run"):
                pair_runs(runs_a, runs_b, metric)
    assert len(pair_runs([first, other], [first, other], metric)[0]) == 2


@pytest.mark.parametrize(
    ("data", "evaluation", "text"),
    [
        ({"output_shape": [3]}, {}, "other outputs"),
        ({"test": 12}, {}, "test splits of different sizes"),
        ({}, {"class_names": ["c", "d"]}, "other classes"),
    ],
)
def test_metrics_on_other_data_are_not_compared(tmp_path, configs, data, evaluation, text):
    runs = make_runs(tmp_path, configs, 0.0, 1)
    for run, changed, named in ((runs[0], {}, {}), (runs[1], data, evaluation)):
        plan = {"name": run.name, "output_shape": [2], "test": 10, **changed}
        write_sealed_json(run / "plan.json", {"data": plan})
        write_sealed_json(run / "evaluation.json", {"accuracy": 0.9, "class_names": ["a", "b"], **named})
    with pytest.raises(ConfigError, match=text):
        pair_runs(runs[:1], runs[1:], MetricInfo("accuracy", True, "%"))
    write_sealed_json(runs[1] / "result.json", {"status": "done", "examples_per_s": 1.0})
    write_sealed_json(runs[0] / "result.json", {"status": "done", "examples_per_s": 1.0})
    assert pair_runs(runs[:1], runs[1:], MetricInfo("examples_per_s", True, "1/s"))[0][0].difference == 0.0
