"""Each task computes the same on every layout and after a resume; a task of the user's own is one file and one YAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from plugin import write
from rank_pool import Pool
from short_runs import broken_off, comparable, result

#: 7 epochs of 3 steps at most; the last batch of an epoch has 8 examples, which three ranks divide unevenly.
RUN = (
    "train.max_examples=72",
    "train.batch_size=32",
    "train.duration=20step",
    "log.every=1step",
    "log.report=false",
    "eval.every=10step",
    "eval.max_examples=40",
    "eval.batch_size=16",
    "checkpoint.every=10step",
    "checkpoint.keep_last=9",
    "precision=fp32",
    "optim=sgd",
    "optim.lr=0.05",
)

MLP = ("model=mlp", "model.hidden=[16,16]")

TASKS: dict[str, tuple[str, ...]] = {
    "mse": (*MLP, "task=regression", "data=diabetes"),
    "huber": (*MLP, "task=regression", "task.loss=huber", "data=diabetes", "reg=[l1]"),
    "classes": (
        *MLP,
        "task=classification",
        "task.loss=focal",
        "task.class_weights=balanced",
        "task.metrics=[macro_f1,auroc,ece]",
        "data.sampler=balanced",
    ),
    "labels": (
        *MLP,
        "task=multilabel",
        "data=table",
        "data.file={labels}",
        "data.target=[red,wide]",
        "data.target_type=labels",
    ),
    "masks": (
        "task=segmentation",
        "task.loss=cross_entropy_dice",
        "task.ignore_index=0",
        "data=scenes",
        "data.pictures=digits",
        "data.train_size=80",
        "data.test_size=20",
        "data.image_size=16",
        "model=unet",
        "model.width=4",
        "model.depth=2",
        "norm=group",
        "augment=[crop,flip,rotation,cutmix]",
        "augment.crop.padding=2",
        "augment.flip.probability=0.5",
    ),
}

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ddp 2": (2, ("parallel=ddp",)),
    "ddp 3": (3, ("parallel=ddp",)),
    "fsdp 2": (2, ("parallel=fsdp",)),
    "accumulation": (1, ("train.micro_batch_size=8",)),
}


def assert_equal_rows(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Every number of every row agrees within 1e-5, relative."""
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, float) and math.isfinite(value):
                assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, row["step"], row["split"])


def write_labels(folder: Path) -> Path:
    """A table with two labels that follow from its numbers and its category."""
    lines = ["shape,x,y,red,wide"]
    for number in range(140):
        x, y, shape = number * 37 % 101, number * 53 % 89, "abc"[number * 7 % 3]
        lines.append(f"{shape},{x},{y},{int(x + y > 95)},{int(shape == 'a' or x > 80)}")
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_computes_the_same_on_every_layout_and_after_a_resume(name: str, pool: Pool, tmp_path: Path) -> None:
    words = [word.replace("{labels}", str(write_labels(tmp_path))) for word in (*RUN, *TASKS[name])]
    whole = tmp_path / "one"
    outcome = pool.train(1, words, whole)
    assert not outcome.error, outcome.error
    for layout, (ranks, more) in LAYOUTS.items():
        run = tmp_path / layout.replace(" ", "-")
        outcome = pool.train(ranks, [*words, *more], run)
        assert not outcome.error, (layout, outcome.error)
        assert_equal_rows(comparable(run), comparable(whole))
    again = tmp_path / "again"
    broken_off(whole, again, 10)
    outcome = pool.train(1, words, again)
    assert not outcome.error, outcome.error
    assert comparable(again) == comparable(whole)
    assert result(again)["digest"] == result(whole)["digest"]


#: Ordinal regression with one threshold less than classes, by the example of docs/plugins.md.
def write_ordinal_plugin(folder: Path) -> Path:
    """Write the package of docs/plugins.md, as it is installed."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = {}
    for name in ("my_methods/task/ordinal.py", "my_methods/conf/task/ordinal.yaml"):
        fence = page.index(f"file=plugin/{name}")
        start = page.index("\n", fence) + 1
        files[name.replace("my_methods", "own_tasks")] = page[start : page.index("```", start)]
    metadata = "Metadata-Version: 2.1\nName: own_tasks\nVersion: 1.0\n"
    entry_points = "[dnntrain.plugins]\nown_tasks = own_tasks\n"
    return write(
        folder,
        {
            **files,
            "own_tasks/__init__.py": "",
            "own_tasks/task/__init__.py": "",
            "own_tasks-1.0.dist-info/METADATA": metadata,
            "own_tasks-1.0.dist-info/entry_points.txt": entry_points,
        },
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_of_a_plug_in_trains_on_two_ranks_as_on_one(pool: Pool, tmp_path: Path) -> None:
    plugin = write_ordinal_plugin(tmp_path / "site")
    words = [*RUN, *MLP, "task=ordinal", "data=digits"]
    for ranks, more in ((1, ()), (2, ("parallel=ddp",))):
        outcome = pool.train(ranks, [*words, *more], tmp_path / str(ranks), plugin=plugin)
        assert not outcome.error, outcome.error
    assert_equal_rows(comparable(tmp_path / "2"), comparable(tmp_path / "1"))
    assert result(tmp_path / "1")["metric"] == "rank_error"
