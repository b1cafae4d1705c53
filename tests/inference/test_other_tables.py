"""A model of a table is evaluated on every file whose rows it can judge, also if none could be trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnntrain import train
from dnntrain.choices.data.table import TableFile
from dnntrain.errors import DataError
from dnntrain.inference.evaluate_run import evaluate_run
from dnntrain.utils.messages import record_messages

Write = Callable[[str], Path]
Runs = dict[str, Path]

SHORT = ("model=mlp", "train.duration=1ep", "train.batch_size=8", "data=table", "data.ignore=[id]", "log.report=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run for each kind of target, on the columns id, x and kind."""
    folder = tmp_path_factory.mktemp("tables")
    kinds = {
        "class": ("task=classification", lambda row: "abc"[row % 3]),
        "number": ("task=regression", lambda row: str(row % 7)),
        "labels": ("task=multilabel", lambda row: ("red;blue", "red", "")[row % 3]),
    }
    runs = {}
    for name, (task, make_target) in kinds.items():
        rows = [f"{row},{row % 11},k{row % 4},{make_target(row)}" for row in range(60)]
        (folder / f"{name}.csv").write_text("\n".join(["id,x,kind,y", *rows]) + "\n")
        words = (f"data.file={folder / f'{name}.csv'}", "data.target=[y]", f"data.target_type={name}", task)
        train(*SHORT, *words, run_dir=str(folder / name), display="quiet")
        runs[name] = folder / name
    return runs


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table of the columns x, kind and y; it has no id."""

    def write(rows: str) -> Path:
        (tmp_path / "other.csv").write_text("x,kind,y\n" + rows.replace(" ", "\n") + "\n")
        return tmp_path / "other.csv"

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows", "examples"),
    [
        ("class", "1,k0,b 2,k1,b 3,k2,b 4,k3,b", 4),  # one class
        ("class", "1,k0,b", 1),  # one row
        ("class", "1,k0,a 2,k1, 3,k2,b", 2),  # a row without a class
        ("class", " ".join(f"{row},new{row},a" for row in range(30)), 30),  # a column of names
        ("number", "1,k0,5 2,k1,5 3,k2,5", 3),  # equal numbers
        ("number", "1,k0,5 2,k1,? 3,k2,1", 2),
        ("labels", "1,k0,red 2,k1,red 3,k2,", 3),  # a label of the model is absent
        ("labels", "1,k0, 2,k1,", 2),
    ],
)
def test_rows_that_the_model_can_judge_are_evaluated(
    name: str, rows: str, examples: int, runs: Runs, write: Write
) -> None:
    split, values = evaluate_run(runs[name], [f"data.file={write(rows)}"])
    assert (split, values["examples"]) == ("all", examples)
    assert np.isfinite(values["loss"])


@pytest.mark.slow
def test_a_row_without_a_target_is_named(runs: Runs, write: Write) -> None:
    messages: list[str] = []
    with record_messages(messages.append):
        evaluate_run(runs["number"], [f"data.file={write('1,k0,5 2,k1,? 3,k2,1')}"])
    assert any("1 row without the target y cannot be evaluated" in text for text in messages)
    with pytest.raises(DataError, match="no row has the target y"):
        evaluate_run(runs["number"], [f"data.file={write('1,k0,? 2,k1,?')}"])


@pytest.mark.slow
def test_a_missing_label_counts_as_absent(runs: Runs, write: Write) -> None:
    """The same rows, with the name of the other label beside them and without."""
    spread = evaluate_run(runs["labels"], [f"data.file={write('1,k0,red 2,k1,red')}"])[1]
    whole = evaluate_run(runs["labels"], [f"data.file={write('1,k0,red 2,k1,red 3,k2,blue')}"], "all")[1]
    alone = evaluate_run(runs["labels"], [f"data.file={write('3,k2,blue')}"])[1]
    assert 2 * spread["loss"] + alone["loss"] == pytest.approx(3 * whole["loss"], rel=1e-5)
    with pytest.raises(DataError, match="green"):
        evaluate_run(runs["labels"], [f"data.file={write('1,k0,green 2,k1,red')}"])


def test_the_split_of_an_evaluation_is_that_of_the_training(tmp_path: Path) -> None:
    """A class of one row is among the training rows in both."""
    for place in range(20):
        targets = ["rare" if row == place else "ab"[row % 2] for row in range(20)]
        file = tmp_path / "table.csv"
        file.write_text("x,y\n" + "".join(f"{row},{target}\n" for row, target in enumerate(targets)))
        data = TableFile(file=str(file), target=("y",))
        trained, evaluated = data.build(), data.build_for_evaluation()
        assert trained.targets.names == evaluated.targets.names == ("a", "b", "rare")
        assert trained.digest == evaluated.digest
        assert 2 in trained.train.labels
        for part in ("train", "test"):
            assert np.array_equal(getattr(trained, part).labels, getattr(evaluated, part).labels)


@pytest.mark.slow
def test_the_data_of_the_training_are_the_same(runs: Runs) -> None:
    for run in runs.values():
        split, values = evaluate_run(run, [])
        assert split == "test"
        assert values == evaluate_run(run, [f"data.file={run.with_suffix('.csv')}"])[1]
