"""Diagnose a distillation: how much of the way to the teacher it goes, and why not further.

    gap closed   (distilled - student) / (teacher - student), of the accuracy
    agreement    share of test examples for which the teacher predicts the same class
    ECE          see dnntrain/utils/calibration_error.py
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
from dnntrain.utils.calibration_error import compute_calibration_error, sum_confidence_bins
from dnntrain.utils.rng import Index

_Array = NDArray[np.float64]

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
    import torch

    sums = sum_confidence_bins(torch.from_numpy(compute_softmax(logits)), torch.from_numpy(targets))
    return compute_calibration_error(sums.flatten().tolist())


def compute_softness(logits: _Array, temperature: float) -> float:
    """Return the mean entropy of softmax(logits / temperature) over log(classes): 0 hard, 1 uniform."""
    probabilities = compute_softmax(logits, temperature)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
    return float(entropy.mean() / math.log(max(logits.shape[1], 2)))


@dataclass(frozen=True)
class PairLogits:
    """The logits [n, classes] of teacher, A and B for the test examples of a pair, and their classes [n]."""

    teacher: _Array
    student: _Array
    distilled: _Array
    targets: NDArray[np.int64]


def compute_distillation(pairs: Sequence[PairLogits], temperature: float | None) -> Distillation:
    """Return the diagnosis: each figure is the mean over pairs."""

    def average(measure: Callable[[PairLogits], float]) -> float:
        return float(np.mean([measure(pair) for pair in pairs]))

    def average_sides(measure: Callable[[PairLogits, _Array], float]) -> tuple[float, float, float]:
        return (
            average(lambda pair: measure(pair, pair.teacher)),
            average(lambda pair: measure(pair, pair.student)),
            average(lambda pair: measure(pair, pair.distilled)),
        )

    def compute_accuracy(pair: PairLogits, logits: _Array) -> float:
        return float((logits.argmax(axis=1) == pair.targets).mean())

    def compute_agreement(pair: PairLogits, logits: _Array) -> float:
        return float((logits.argmax(axis=1) == pair.teacher.argmax(axis=1)).mean())

    top, low, high = average_sides(compute_accuracy)
    gap_closed = (high - low) / (top - low) if top > low else None
    facts = Distillation(
        teacher=top,
        student=low,
        distilled=high,
        gap_closed=gap_closed,
        agreement=average_sides(compute_agreement)[1:],
        ece=average_sides(lambda pair, logits: compute_ece(logits, pair.targets)),
        softness=average(lambda pair: compute_softness(pair.teacher, temperature or 1.0)),
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


def diagnose_pairs(
    pairs: Sequence[Pair], trusts_runs: bool, trusts_teachers: bool, say: Callable[[str], None]
) -> Distillation | None:
    """Return the diagnosis of the first pairs; None if B is not distilled from a run or an export.

    It needs a classification with class logits. Trust lets the runs, or the teachers, use the code
    that they name.
    """
    if not pairs:
        return None
    config = decode_config(read_saved_config(pairs[0].runs[1]))
    sources = config.distill.sources
    if not sources or not all(map(is_path, sources)) or TaskFeature.CLASS_LOGITS not in config.task.features:
        return None
    say(f"comparing {2 * len(pairs[:_MAX_PAIRS])} models with the teacher on the test set")
    teachers: dict[bytes, _Array] = {}
    computed = []
    try:
        for pair in pairs[:_MAX_PAIRS]:
            student, distilled = (_compute_logits(run, run, trusts_runs) for run in pair.runs)
            if student.identity != distilled.identity:
                say("the diagnosis of the distillation needs the same test examples for A and B")
                return None
            # With eval.max_examples each seed has its own examples.
            if distilled.identity not in teachers:
                owner = pair.runs[1]
                teachers[distilled.identity] = np.mean(
                    [_compute_logits(Path(item), owner, trusts_teachers, trusts_runs).logits for item in sources],
                    axis=0,
                )
            teacher = teachers[distilled.identity]
            computed.append(PairLogits(teacher, student.logits, distilled.logits, distilled.targets))
    except DnntrainError as error:
        say(f"the distillation is not diagnosed: {error.message}")
        return None
    if any(logits.shape != item.teacher.shape for item in computed for logits in (item.student, item.distilled)):
        say("the distillation is not diagnosed: the teacher has other classes")
        return None
    return compute_distillation(computed, config.distill.temperature)


@dataclass(frozen=True)
class _Evaluated:
    """Logits [n, classes], classes [n] and numbers [n] of test examples."""

    logits: _Array
    targets: NDArray[np.int64]
    index: Index

    @property
    def identity(self) -> bytes:
        """The examples, as a key."""
        return self.index.tobytes() + self.targets.tobytes()


def _compute_logits(model: Path, data_run: Path, trust: bool, trusts_data: bool = False) -> _Evaluated:
    """Return the logits of a model for the test split of a run's data.

    `trust` lets the model use the code that it names, and `trusts_data` another run the code of its data.
    """
    import torch

    from dnntrain.inference.evaluate_run import load_data_splits
    from dnntrain.inference.load import load_model, load_run

    loaded_model = load_model(model, trust=trust)
    owner = loaded_model if model == data_run else load_run(data_run, trust=trusts_data)
    outputs, targets, index = [], [], []
    with torch.no_grad():
        for batch in load_data_splits(owner)["test"].make_batches(loaded_model, owner.config.eval.batch_size):
            outputs.append(loaded_model.compute_batch_outputs(batch).double().cpu().numpy())
            targets.append(batch.targets.cpu().numpy())
            index.append(batch.index)
    return _Evaluated(np.concatenate(outputs), np.concatenate(targets), np.concatenate(index))
