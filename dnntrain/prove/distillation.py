"""Diagnose a distillation: how much of the way to the teacher it goes, and why not further.

    gap closed   (distilled - student) / (teacher - student), of the accuracy
    agreement    share of test examples for which the teacher predicts the same class
    ECE          sum over 15 bins of confidence of the share of examples times |accuracy - confidence|
    softness     mean entropy of softmax(teacher / T) over the entropy of equal probabilities

Sources: Guo et al., "On calibration of modern neural networks", 2017; Cho and Hariharan, "On the
efficacy of knowledge distillation", 2019; Mirzadeh et al., "Improved knowledge distillation via
teacher assistant", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.config.decode import decode_config
from dnntrain.config.paths import is_path
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import DnntrainError
from dnntrain.protocols import TaskFeature
from dnntrain.prove.pairs import Pair

_Array = NDArray[np.float64]

_NUM_BINS = 15
#: Pairs that are evaluated.
_MAX_PAIRS = 5
#: A teacher must be better than the student by this much.
_LEAST_GAP = 0.005
#: From this gap on, a teacher may be too strong, if less than this share of it is closed.
_LARGE_GAP, _SMALL_SHARE = 0.05, 0.25
#: Softness at which a temperature saturates: nearly one class, and nearly equal probabilities.
_HARD, _UNIFORM = 0.02, 0.95


@dataclass(frozen=True)
class Distillation:
    """Accuracy and ECE of teacher, student (A) and distilled student (B), and the teacher's softness.

    agreement    of the student and of the distilled student with the teacher
    gap_closed   None if the teacher is not better than the student
    temperature  None if the method has none; softness is that of temperature 1 then
    """

    teacher: float
    student: float
    distilled: float
    gap_closed: float | None
    agreement: tuple[float, float]
    ece: tuple[float, float, float]
    softness: float
    temperature: float | None
    advice: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> list[str]:
        """Return the diagnosis in sentences, the advice last."""
        closed = "" if self.gap_closed is None else f" {100 * self.gap_closed:.0f} % of the gap is closed."
        return [
            f"Distillation: teacher {100 * self.teacher:.2f} %, A {100 * self.student:.2f} %, "
            f"B {100 * self.distilled:.2f} % accuracy.{closed}",
            f"Agreement with the teacher: A {100 * self.agreement[0]:.2f} %, B {100 * self.agreement[1]:.2f} %.",
            "Expected calibration error: teacher {:.2f}, A {:.2f}, B {:.2f} points.".format(
                *(100 * value for value in self.ece)
            ),
            *self.advice,
        ]


def compute_softmax(logits: _Array, temperature: float = 1.0) -> _Array:
    """Return softmax(logits / temperature): [n, classes] → [n, classes]."""
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: _Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def compute_ece(logits: _Array, targets: NDArray[np.int64]) -> float:
    """Return the expected calibration error over 15 equal bins of confidence, from 0 to 1."""
    probabilities = compute_softmax(logits)
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = np.bincount(bins, weights=is_right - confidence, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(targets))


def compute_softness(logits: _Array, temperature: float) -> float:
    """Return the mean entropy of softmax(logits / temperature) over log(classes): 0 hard, 1 uniform."""
    probabilities = compute_softmax(logits, temperature)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
    return float(entropy.mean() / math.log(max(logits.shape[1], 2)))


def compute_distillation(
    teacher: _Array,
    students: Sequence[tuple[_Array, _Array]],
    targets: NDArray[np.int64],
    temperature: float | None,
) -> Distillation:
    """Return the diagnosis of logits [n, classes]; `students` hold those of A and B of each pair."""

    def average(measure: Callable[[_Array], float], side: int) -> float:
        return float(np.mean([measure(pair[side]) for pair in students]))

    def compute_accuracy(logits: _Array) -> float:
        return float((logits.argmax(axis=1) == targets).mean())

    def compute_agreement(logits: _Array) -> float:
        return float((logits.argmax(axis=1) == teacher.argmax(axis=1)).mean())

    def compute_error(logits: _Array) -> float:
        return compute_ece(logits, targets)

    top, low, high = compute_accuracy(teacher), average(compute_accuracy, 0), average(compute_accuracy, 1)
    gap_closed = (high - low) / (top - low) if top > low else None
    facts = Distillation(
        teacher=top,
        student=low,
        distilled=high,
        gap_closed=gap_closed,
        agreement=(average(compute_agreement, 0), average(compute_agreement, 1)),
        ece=(compute_error(teacher), average(compute_error, 0), average(compute_error, 1)),
        softness=compute_softness(teacher, temperature or 1.0),
        temperature=temperature,
    )
    return Distillation(**{**vars(facts), "advice": tuple(give_advice(facts))})


def give_advice(facts: Distillation) -> list[str]:
    """Return a sentence for each reason why the distillation may not go further."""
    advice = []
    gap = facts.teacher - facts.student
    if gap < _LEAST_GAP:
        advice.append(
            f"The teacher is too weak: it is {100 * gap:+.2f} points from the student alone. "
            "Train it longer, or take a larger one."
        )
    elif gap >= _LARGE_GAP and facts.gap_closed is not None and facts.gap_closed < _SMALL_SHARE:
        advice.append(
            f"The teacher may be too strong for the student: it is {100 * gap:.1f} points better, and B agrees with it "
            f"on {100 * facts.agreement[1]:.1f} % of the examples. Take a smaller teacher, one that trained for a "
            "shorter time, or a larger student."
        )
    if facts.temperature is not None and facts.softness > _UNIFORM:
        advice.append(
            f"distill.temperature={facts.temperature:g} saturates: the softened teacher is nearly uniform "
            f"(entropy {100 * facts.softness:.0f} % of the largest). Try distill.temperature={facts.temperature / 2:g}."
        )
    elif facts.temperature is not None and facts.softness < _HARD:
        advice.append(
            f"distill.temperature={facts.temperature:g} is too low: the softened teacher is nearly one-hot "
            f"(entropy {100 * facts.softness:.1f} % of the largest). Try distill.temperature={2 * facts.temperature:g}."
        )
    return advice


def diagnose_pairs(pairs: Sequence[Pair], trust: bool, say: Callable[[str], None]) -> Distillation | None:
    """Return the diagnosis of the first pairs; None if B is not distilled from a run or an export.

    It needs a classification with class logits. `trust` lets the runs use the code that they name.
    """
    if not pairs:
        return None
    config = decode_config(read_saved_config(pairs[0].runs[1]))
    sources = config.distill.sources
    if not sources or not all(map(is_path, sources)) or TaskFeature.CLASS_LOGITS not in config.task.features:
        return None
    say(f"comparing {2 * len(pairs[:_MAX_PAIRS])} models with the teacher on the test set")
    try:
        teachers = [_compute_logits(Path(source), pairs[0].runs[1], trust) for source in sources]
        students = []
        for pair in pairs[:_MAX_PAIRS]:
            first, second = (_compute_logits(run, run, trust)[0] for run in pair.runs)
            students.append((first, second))
    except DnntrainError as error:
        say(f"the distillation is not diagnosed: {error.message}")
        return None
    teacher: _Array = np.mean([logits for logits, _ in teachers], axis=0)
    if any(logits.shape != teacher.shape for pair in students for logits in pair):
        say("the distillation is not diagnosed: the teacher has other classes")
        return None
    return compute_distillation(teacher, students, teachers[0][1], config.distill.temperature)


def _compute_logits(model: Path, data_run: Path, trust: bool) -> tuple[_Array, NDArray[np.int64]]:
    """Return the logits of a model for the test split of a run's data, and the classes."""
    import torch

    from dnntrain.inference.evaluate_run import load_data_splits
    from dnntrain.inference.load import load_model, load_run

    loaded_model = load_model(model, trust=trust)
    owner = loaded_model if model == data_run else load_run(data_run, trust=trust)
    outputs, targets = [], []
    with torch.no_grad():
        for batch in load_data_splits(owner)["test"].make_batches(loaded_model, owner.config.eval.batch_size):
            outputs.append(loaded_model.compute_batch_outputs(batch).double().cpu().numpy())
            targets.append(batch.targets.cpu().numpy())
    return np.concatenate(outputs), np.concatenate(targets)
