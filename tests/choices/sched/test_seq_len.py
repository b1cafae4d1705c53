"""sched.applies_to=seq_len: the tokens of each step follow the schedule, and the loss is their mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import rows
from small_texts import RUN, write_texts

import dnntrain
from dnntrain.choices.task.language_model import LanguageModel
from dnntrain.distributed.loss_divisor import make_loss_divisor
from dnntrain.errors import ConfigError
from dnntrain.planning.seq_len import compute_seq_len
from dnntrain.protocols import Batch, InputSpec, StepBatch, TargetKind, TargetSpec, Vocabulary
from dnntrain.training.progress import Progress
from dnntrain.training.seq_len import SequenceLength, ShortBatches
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.units import Duration


@pytest.mark.parametrize(
    ("factor", "context", "expected"),
    [(0.0, 64, 8), (0.3, 64, 16), (0.32, 64, 24), (1.0, 64, 64), (1.5, 64, 64), (0.99, 30, 30), (1.0, 4, 4)],
)
def test_a_length_is_a_multiple_of_8_within_the_window(factor: float, context: int, expected: int) -> None:
    assert compute_seq_len(factor, context) == expected


class _Windows:
    """Two windows of 32 tokens in each step."""

    def take(self, step: int) -> StepBatch:
        index = np.arange(2)
        tokens = torch.arange(64).view(2, 32)
        return StepBatch([Batch(tokens, tokens + 1, index, index)], examples=4)


def test_the_windows_of_a_step_are_cut_and_the_loss_is_the_mean_over_their_tokens() -> None:
    progress = Progress(Duration(4, "step"), EpochSchedule.constant(8, 4))
    seq_len = SequenceLength(lambda step_info: 0.25 * (1 + step_info.step), 32, progress)
    batches = ShortBatches(_Windows(), seq_len)
    task = LanguageModel()
    inputs = InputSpec((32,), (), (), vocabulary=Vocabulary("char", "abc"))
    divide = make_loss_divisor(task, task.make_spec(inputs, TargetSpec((), TargetKind.TOKENS)), "cpu", 2)
    for step, length in ((0, 8), (3, 32), (1, 16)):
        batch = batches.take(step)
        (micro_batch,) = batch.micro_batches
        assert torch.equal(micro_batch.inputs, torch.arange(64).view(2, 32)[:, :length])
        assert torch.equal(micro_batch.targets, micro_batch.inputs + 1)
        assert seq_len.current == length
        assert divide(batch)[1] == 4 * length


@pytest.mark.slow
def test_the_length_stands_in_the_plan_the_rows_and_the_report(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith(("data.context", "train.duration", "log.report"))]
    words += [f"data.path={write_texts(tmp_path / 'texts')}", "data.context=32", "train.duration=8step"]
    words += ["sched=constant", "sched.warmup=50%", "sched.warmup_start_factor=0.25", "sched.applies_to=seq_len"]
    lengths = [8, 16, 16, 24, 32, 32, 32, 32]
    assert dnntrain.plan(*words).schedule["seq_len"] == tuple(lengths)
    dnntrain.train(*words, f"run_dir={tmp_path / 'run'}", display="quiet")
    assert [row["seq_len"] for row in rows(tmp_path / "run") if row["split"] == "train"] == lengths
    assert "Seq len" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    words = [word for word in words if not word.startswith("sched")]
    with pytest.raises(ConfigError, match="times the 32 tokens of a window"):
        dnntrain.plan(*words, "sched=linear", "sched.end_factor=2", "sched.applies_to=seq_len")
    words += ["sched.applies_to=seq_len", "distill=kd", f"distill.teacher={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"sched\.applies_to=seq_len does not support the loss"):
        dnntrain.train(*words, f"run_dir={tmp_path / 'student'}", display="quiet")
