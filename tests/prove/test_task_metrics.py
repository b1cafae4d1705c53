"""Every metric of every task can be compared: its value, and its sums over the examples of the test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from methods import MLP, SCENES

import dnntrain
from dnntrain.inference.load import load_run
from dnntrain.prove.metrics import choose_metric, read_pair
from dnntrain.prove.test_set_error import compute_sums_of_model, compute_value, find_task_metric

RUN = ("train.duration=4step", "train.batch_size=16", "log.report=false", "augment=[]")

TASKS = {
    "classification": (*MLP, "task.metrics=[macro_f1,auroc,ece,top5]", "train.max_examples=72"),
    "regression": (*MLP, "task=regression", "data=diabetes"),
    "multilabel": (*MLP, "task=multilabel", *SCENES),
    "segmentation": ("task=segmentation", *SCENES, "model=unet", "model.width=4", "model.depth=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_sums_of_the_examples_make_the_value_of_each_metric(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    dnntrain.train(*RUN, *TASKS[name], f"run_dir={run}", display="quiet")
    evaluation = json.loads((run / "evaluation.json").read_text())
    model = load_run(run)
    infos = model.config.task.list_infos()
    assert len(infos) >= 3
    for info in infos:
        metric = choose_metric(info.name, model.config.eval.metric, infos)
        value = pytest.approx(evaluation[info.name], rel=1e-6)
        assert read_pair((run, run), metric, trust=False) == (value, value)
        sums = compute_sums_of_model(model, info.name).values
        counts = np.ones(len(sums), dtype=np.int64)
        assert compute_value(sums, counts, find_task_metric(model.config.task, info.name, model.spec)) == value
