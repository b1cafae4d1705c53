"""distill=outputs: the distance of logits and of estimates, in the units of the student, for every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from methods import MLP, SCENES
from short_runs import broken_off, comparable, result

import dnntrain
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.outputs import Outputs, compute_distances
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, InputSpec
from dnntrain.run.session import open_session
from dnntrain.utils.rng import Key
from dnntrain.utils.world import World

RUN = ("train.batch_size=16", "log.report=false", "augment=[]", "optim.lr=0.01")
NUMBERS = (*MLP, "task=regression", "data=diabetes")
SHORT, LONG = "train.duration=4step", "train.duration=20step"

TASKS = {
    "regression": NUMBERS,
    "multilabel": (*MLP, "task=multilabel", *SCENES),
    "segmentation": ("task=segmentation", *SCENES, "model=unet", "model.width=4", "model.depth=2"),
}


def test_the_distance_is_the_mean_over_the_outputs() -> None:
    student, teacher = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, 1.0]])
    expected = {"mse": (0.25 + 9) / 2, "mae": (0.5 + 3) / 2, "huber": (0.125 + 2.5) / 2}
    for distance, value in expected.items():
        assert compute_distances(student, teacher, distance).tolist() == [pytest.approx(value)]


def test_a_delta_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="no effect with distance=mse; use distance=huber"):
        Outputs(teacher="run", delta=2.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("numbers") / "teacher"
    dnntrain.train(*RUN, SHORT, *NUMBERS, "seed=1", f"run_dir={run}", display="quiet")
    return run


def write_table(file: Path, kinds: str, low: int) -> tuple[str, ...]:
    """Write 60 rows with numbers from `low` on; return the words of a run on them."""
    rows = [f"{low + number * 7 % 23},{kinds[number % len(kinds)]},{3 * low + number % 5}" for number in range(60)]
    file.write_text("\n".join(["size,kind,price", *rows]) + "\n")
    return (*MLP, "task=regression", "data=table", f"data.file={file}", "data.target=[price]")


@pytest.mark.slow
def test_a_teacher_of_other_rows_has_the_units_of_the_student(tmp_path: Path) -> None:
    source = tmp_path / "teacher"
    dnntrain.train(*RUN, SHORT, *write_table(tmp_path / "a.csv", "xy", 0), f"run_dir={source}", display="quiet")
    words = [*RUN, SHORT, *write_table(tmp_path / "b.csv", "xy", 9), f"run_dir={tmp_path / 'student'}"]
    words += ["distill=outputs", f"distill.teacher={source}"]
    session = open_session(decode_config(compose(words)), World())
    inputs, output, model = session.data.spec.inputs, session.data.spec.output, dnntrain.load(source)
    assert inputs.mean != model.spec.inputs.mean
    assert output.mean != model.spec.output.mean
    rows = torch.tensor([[4.0, 1.0], [17.0, 2.0], [30.0, 0.0]])
    index = np.arange(3)
    batch = Batch(standardize(rows, inputs), torch.zeros(3, 1), index, index)
    (transform,) = session.hooks.batch_transforms
    estimates = transform.apply(batch, Key(0)).extras[LOGITS][:, 0]
    with torch.no_grad():
        expected = model.model(standardize(rows, model.spec.inputs))
    torch.testing.assert_close(
        estimates * output.std[0] + output.mean[0],
        expected * model.spec.output.std[0] + model.spec.output.mean[0],
        rtol=1e-5,
        atol=1e-5,
    )
    write_table(tmp_path / "b.csv", "xyz", 9)
    with pytest.raises(ConfigError, match="other columns or categories"):
        open_session(decode_config(compose(words)), World())


def standardize(rows: torch.Tensor, inputs: InputSpec) -> torch.Tensor:
    return (rows - torch.tensor(inputs.mean)) / torch.tensor(inputs.std)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_student_comes_closer_to_its_teacher(name: str, tmp_path: Path) -> None:
    source = tmp_path / "teacher"
    dnntrain.train(*RUN, *TASKS[name], LONG, f"run_dir={source}", display="quiet")
    losses: list[float] = []
    words = ("seed=1", "distill=outputs", f"distill.teacher={source}", "distill.label_loss_weight=0", "log.every=1step")
    dnntrain.train(
        *(*RUN, *TASKS[name], *words, LONG, f"run_dir={tmp_path / 'student'}"),
        callbacks=[lambda row: losses.append(row["loss"]) if row["split"] == "train" else None],
        display="quiet",
    )
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_student_is_resumed_bit_for_bit(teacher: Path, tmp_path: Path) -> None:
    words = (*NUMBERS, "distill=outputs", f"distill.teacher={teacher}", "checkpoint.every=2step")
    for name in ("whole", "again"):
        if name == "again":
            broken_off(tmp_path / "whole", tmp_path / "again", 2)
        dnntrain.train(*RUN, SHORT, *words, f"run_dir={tmp_path / name}", display="quiet")
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")
    assert result(tmp_path / "again")["digest"] == result(tmp_path / "whole")["digest"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((*MLP, "distill=outputs"), "the data have"),
        ((*MLP, "task=regression", "data=diabetes", "distill=kd"), "use distill=outputs"),
        ((*MLP, "task=regression", "data=diabetes", "distill=dist"), "use distill=outputs"),
    ],
)
def test_other_targets_and_methods_of_classes_are_refused(
    words: tuple[str, ...], text: str, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        dnntrain.train(
            *RUN, SHORT, *words, f"distill.teacher={teacher}", f"run_dir={tmp_path / 'run'}", display="quiet"
        )
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()
