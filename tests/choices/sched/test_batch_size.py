"""sched.applies_to=batch_size: all epochs' sizes are known beforehand, the same on every layout, pipeline and resumed run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from methods import line
from rank_pool import Pool
from short_runs import broken_off, comparable, result, rows, trained
from stand_ins import context

from dnntrain import plan
from dnntrain.checkpoint.read_checkpoint import read_newest_checkpoint
from dnntrain.choices.sched.linear import Linear
from dnntrain.choices.sched.step import Step
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, ScheduledParam, StepInfo
from dnntrain.report.page import write_report
from dnntrain.utils.units import Duration

MLP = ("model=mlp", "model.hidden=[16]", "sched.applies_to=batch_size", "precision=fp32")

SMALL = ("train.max_examples=320", "train.batch_size=16", "train.duration=6ep")

#: 100 examples in epochs of 5 steps of 24, 4 of 30, 3 of 36, 3 of 42: the last step of each is a short one.
RISING = (
    *MLP,
    "train.max_examples=100",
    "train.batch_size=24",
    "train.duration=4ep",
    "sched=linear",
    "sched.end_factor=2",
    "log.every=1step",
    "log.report=false",
    "eval.every=1ep",
    "checkpoint.every=1step",
    "checkpoint.keep_last=99",
    "optim=sgd",
    "optim.lr=0.05",
    "augment.crop.padding=1",
    "reg=[]",
    "augment=[crop,flip,mixup]",
)
SIZES = [24] * 5 + [30] * 4 + [36] * 3 + [42] * 3


@pytest.fixture(scope="module")
def rising(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rising") / "run"
    trained(folder, *RISING)
    return folder


def sizes(*words: str) -> list[int]:
    """The batch size of each epoch of the planned run."""
    made = plan(*line(*MLP, *SMALL, *words))
    epochs = made.timetable.locate_step(made.total_steps - 1)[0] + 1
    return [made.timetable.batch_size_at(epoch) for epoch in range(epochs)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sched=step", "sched.step_size=2ep", "sched.gamma=2"), [16, 16, 32, 32, 64, 64]),
        (("sched=step", "sched.step_size=50%", "sched.gamma=0.25"), [16, 16, 16, 4, 4, 4]),
        (("sched=linear", "sched.end_factor=4"), [16, 24, 32, 40, 48, 56]),
        # 16 (1 + 2 e / 2.5)
        (("sched=linear", "sched.end_factor=3", "train.duration=2.5ep"), [16, 29, 42]),
        (("sched=exponential", "sched.step_size=1ep", "sched.gamma=0.5", "train.batch_size=50"), [50, 25, 12, 6, 3, 2]),
        (("sched=constant", "sched.warmup=4ep", "sched.warmup_start_factor=0.5"), [8, 10, 12, 14, 16, 16]),
        (("sched=constant", "sched.cooldown=4ep"), [16, 16, 16, 12, 8, 4]),
        (("sched=sequence", "sched.stages=['constant:2ep','linear:end_factor=3']"), [16, 16, 16, 24, 32, 40]),
        (("sched=multistep", "sched.milestones=[1ep,4ep]", "sched.gamma=3"), [16, 48, 48, 48, 144, 144]),
        # 6 batches a sixteenth as large, but never without an example.
        (("sched=constant", "sched.factor=0.01"), [1] * 6),
        # Copies fill a batch evenly, and all examples have their turn before it changes.
        (
            ("sched=linear", "sched.end_factor=4", "+augment=[repeated_augment]", "augment.repeated_augment.copies=4"),
            [16, 16, 16, 16, 48, 48],
        ),
    ],
)
def test_an_epoch_has_the_batch_size_that_was_set_times_the_factor_at_its_beginning(
    words: tuple[str, ...], expected: list[int]
) -> None:
    assert sizes(*words) == expected


@pytest.mark.slow
def test_in_a_run_of_steps_the_schedule_counts_the_steps_that_were_done() -> None:
    found = sizes(
        "sched=step", "sched.step_size=10step", "sched.gamma=2", "train.duration=45step", "train.batch_size=20"
    )
    expected, done = [], 0
    while done < 45:
        expected.append(20 * 2 ** (done // 10))
        done += -(-320 // expected[-1])
    assert found == expected == [20, 40, 80, 80, 160, 160, 160, 160, 320, 320, 320, 320, 320]


@pytest.mark.slow
def test_one_schedule_may_move_the_learning_rate_along_both_by_the_epochs_that_are_done() -> None:
    run = context()
    parts = Linear(end_factor=3.0, applies_to=("lr", "batch_size")).build(_counting_epochs(run, 4.0))
    assert [control.target for control in parts.scheduled_values] == [
        ScheduledParam.LEARNING_RATE,
        ScheduledParam.BATCH_SIZE,
    ]
    assert {control.value(StepInfo(7, 1.5, 0.1)) for control in parts.scheduled_values} == {1.75}
    made = plan(
        *line(*MLP, "train.duration=4ep", "sched=linear", "sched.end_factor=3", "sched.applies_to=[lr,batch_size]")
    )
    assert made.schedule["batch size"][0] == 32
    assert made.schedule["lr"][-1] > 2.5 * made.schedule["lr"][0]


def _counting_epochs(run: BuildContext, epochs: float) -> BuildContext:
    return replace(run, num_epochs=epochs)


@pytest.mark.slow
def test_the_learning_rate_stays_and_the_rows_show_the_size_and_the_epoch_of_their_step(rising: Path) -> None:
    train = [row for row in rows(rising) if row["split"] == "train"]
    assert [row["batch_size"] for row in train] == SIZES
    assert {row["lr"] for row in train} == {0.05}
    assert [row["examples"] for row in train if row["epoch"] == int(row["epoch"])] == [100, 200, 300, 400]
    assert [(row["step"], row["epoch"]) for row in rows(rising) if row["split"] == "val"] == [
        (5, 1.0),
        (9, 2.0),
        (12, 3.0),
        (15, 4.0),
    ]
    assert result(rising)["epochs"] == 4.0


def test_the_report_names_and_draws_the_sizes(rising: Path, tmp_path: Path) -> None:
    page = write_report([rising], tmp_path / "page.html").read_text()
    assert "batch 24 to 42" in page
    assert "Batch size" in page


@pytest.mark.slow
def test_a_run_without_it_writes_no_column_and_one_size_is_the_run_of_that_size(tmp_path: Path) -> None:
    words = ("model=mlp", "train.max_examples=100", "train.duration=2ep", "log.every=1step", "sched=constant")
    trained(tmp_path / "plain", *words, "train.batch_size=32")
    trained(tmp_path / "half", *words, "train.batch_size=64", "sched.factor=0.5", "sched.applies_to=batch_size")
    plain, half = comparable(tmp_path / "plain"), comparable(tmp_path / "half")
    assert "batch_size" not in plain[0]
    assert [row["loss"] for row in half] == [row["loss"] for row in plain]
    assert [row["epoch"] for row in half] == [row["epoch"] for row in plain]


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5, 7, 9, 13])
def test_a_run_that_was_broken_off_within_or_between_epochs_goes_on_bitwise(
    step: int, rising: Path, tmp_path: Path
) -> None:
    broken_off(rising, tmp_path / "again", step)
    trained(tmp_path / "again", *RISING)
    assert comparable(tmp_path / "again") == comparable(rising)
    assert result(tmp_path / "again")["digest"] == result(rising)["digest"]


@pytest.mark.slow
def test_streaming_trains_the_run_of_resident_bitwise(rising: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", *RISING, "data.pipeline=streaming", "data.num_workers=1")
    assert comparable(tmp_path / "run") == comparable(rising)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (2, ("parallel=ddp",)),
        (2, ("parallel=ddp", "train.micro_batch_size=8")),
        (2, ("parallel=pp",)),
        (1, ("train.micro_batch_size=16",)),
    ],
)
def test_layouts_and_micro_batches_train_the_run_of_one_process(
    ranks: int, words: tuple[str, ...], rising: Path, tmp_path: Path, pool: Pool
) -> None:
    outcome = pool.train(ranks, [*RISING, *words], tmp_path / "run")
    assert not outcome.error, outcome.error
    ours, theirs = comparable(tmp_path / "run"), comparable(rising)
    assert [(row["step"], row["epoch"], row.get("batch_size")) for row in ours] == [
        (row["step"], row["epoch"], row.get("batch_size")) for row in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


#: Doubles every second epoch: 100 examples in steps of 16, 16, 32 and 32.
DOUBLING = line(
    *(word for word in RISING if word != "sched.end_factor=2"),
    "sched=step",
    "sched.gamma=2",
    "sched.step_size=2ep",
    "train.batch_size=16",
)


@pytest.mark.slow
def test_a_run_made_longer_equals_the_longer_run_where_its_sizes_do_not_depend_on_the_length(tmp_path: Path) -> None:
    longer = tuple(word.replace("4ep", "5ep") for word in DOUBLING)
    trained(tmp_path / "long", *longer)
    trained(tmp_path / "run", *DOUBLING)
    trained(tmp_path / "run", *longer)
    assert result(tmp_path / "run")["digest"] == result(tmp_path / "long")["digest"]


@pytest.mark.slow
def test_a_length_that_changes_the_sizes_of_steps_that_are_done_is_refused(rising: Path, tmp_path: Path) -> None:
    broken_off(rising, tmp_path / "again", 7)
    longer = tuple(word.replace("train.duration=4ep", "train.duration=8ep") for word in RISING)
    with pytest.raises(ConfigError, match="would change the batch sizes of the 7 steps so far"):
        trained(tmp_path / "again", *longer)
    # Within the first epoch the sizes are the same in both.
    broken_off(rising, tmp_path / "early", 4)
    trained(tmp_path / "early", *longer)
    assert result(tmp_path / "early")["epochs"] == 8.0


@pytest.mark.slow
def test_weights_are_averaged_at_the_ends_of_the_epochs(tmp_path: Path) -> None:
    words = [word for word in RISING if not word.startswith(("reg=", "checkpoint", "eval"))]
    trained(
        tmp_path / "run",
        *words,
        "reg=[]",
        "average=[swa]",
        "average.swa.start_fraction=0.25",
        "average.swa.precise_bn_batches=0",
    )
    checkpoint = read_newest_checkpoint(tmp_path / "run" / "checkpoints", lambda text: None)
    assert checkpoint is not None
    # Epochs end after 5, 9, 12 and 15 steps; the last step of the first begins after 4 / 15 of the run.
    assert json.loads((checkpoint.path / "manifest.json").read_text())["values"]["swa"]["updates"] == 4


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            ("sched=linear", "sched.end_factor=2", "train.duration=9s"),
            ("does not support train.duration=9s", "in epochs or steps"),
        ),
        (("sched=step", "sched.step_size=5step"), ("must not be in steps", "sched.step_size in epochs or percent")),
        (
            ("sched=step", "sched.step_size=1ep", "train.duration=99step"),
            ("must not be in epochs", "sched.step_size in steps or percent"),
        ),
        (
            ("sched=step", "sched.step_size=1ep", "sched.gamma=4"),
            ("a batch of 1024 in epoch 3", "320 training", "leave batch_size out"),
        ),
        (("sched=linear", "sched.end_factor=50"), ("use train.batch_size=7 or less",)),
        (("sched=exponential", "sched.gamma=1e300"), ("the factor of the schedule overflows",)),
        (("sched=step", "sched.gamma=2", "sched.applies_to=lr"), ("lets lr grow", "sched.applies_to=batch_size")),
        (("sched=step", "sched.gamma=2", "sched.applies_to=[lr,batch_size]"), ("lets lr and batch_size grow",)),
        (
            ("sched=constant", "sched.factor=0.0625", "parallel=ddp", "launch.nproc=2"),
            ("a batch of 1 ", "without an example", "use train.batch_size=32 or more"),
        ),
        (
            (
                "sched=constant",
                "sched.factor=0.5",
                "parallel=ddp",
                "launch.nproc=2",
                "reg=[]",
                "augment=[crop,flip,mixup]",
            ),
            ("split the blocks of a batch of 8 ", "data.mix_block_size=4", "train.batch_size=32 or more"),
        ),
        (
            ("sched=linear", "sched.end_factor=0.5", "model=resnet20", "norm=ghost", "norm.virtual_batch_size=10"),
            (
                "must be smaller than the micro-batch of 9",
                "norm.virtual_batch_size=4",
                "or leave batch_size out",
                "the batch of 9 is train.batch_size=16 scaled by sched.applies_to",
            ),
        ),
        (
            ("sched=linear", "sched.end_factor=2", "model=resnet20", "parallel=pp", "launch.nproc=2"),
            ("batch norm would see the padding", "norm=group"),
        ),
        (
            ("sched=constant", "sched.factor=0.0625", "parallel=pp", "launch.nproc=2"),
            ("1 micro-batches are fewer than the 2 stages", "leave batch_size out of sched.applies_to"),
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(words: tuple[str, ...], messages: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        sizes(*words)
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.slow
def test_the_plan_draws_the_sizes_and_estimates_memory_for_the_largest() -> None:
    made = plan(*MLP, *SMALL, "sched=step", "sched.step_size=2ep", "sched.gamma=2", "optim.lr_scaling=linear")
    lines = dict(made.format_rows())
    assert made.total_steps == 2 * (20 + 10 + 5)
    assert lines["batch"] == "16 to 64; 64 = 1 data rank × 1 accumulated × 64"
    assert lines["length"] == "6ep: 70 steps, 5 to 20 per epoch"
    assert lines["batch size"].endswith("16, 64")
    assert any("optim.lr_scaling uses train.batch_size=16" in note for note in made.notes)
    constant = plan(*line(*MLP, *SMALL, "train.batch_size=64", "sched.applies_to=lr"))
    assert made.memory.activations == constant.memory.activations


def test_a_step_of_the_schedule_may_raise() -> None:
    parts = Step(step_size=Duration(2, "ep"), gamma=2.0, applies_to="batch_size").build(
        _counting_epochs(context(), 6.0)
    )
    assert [parts.scheduled_values[0].value(StepInfo(0, epoch, 0.0)) for epoch in range(6)] == [1, 1, 2, 2, 4, 4]
