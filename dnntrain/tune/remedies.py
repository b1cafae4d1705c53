"""List settings that may remove the bottleneck of a step, with the most that each can gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnntrain.config.groups import LISTS
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.training import step_phases as phase
from dnntrain.tune.roofline import bound_bf16_gain, bound_gain, compute_bound, measure_bf16_factor
from dnntrain.tune.speed_settings import (
    can_be_resident,
    count_readers,
    is_read_once,
    list_batch_sizes,
    list_speed_settings,
)
from dnntrain.tune.step_time import GAPS, StepTime
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Factors of the batch size that are tried.
_BATCH_FACTORS = (4, 16)
#: A remedy that cannot gain this factor is not tried.
_LEAST_BOUND = 1.05
#: Rows of metrics are written so many times less often.
_ROW_FACTOR = 10


@dataclass(frozen=True)
class Remedy:
    """A setting that may make a step faster.

    kind     the bottleneck that it removes
    words    the overrides
    grade    how far they change the numbers
    bound    the ratio that it can reach at most, if its phases took no time
    without  the choice that it removes, as `reg.sam`
    """

    kind: str
    words: tuple[str, ...]
    grade: SpeedGrade
    bound: float
    without: str = ""


#: The bottlenecks, by the word that names each.
DATA, CALLBACKS, ROWS, SMALL_BATCH, COMPUTE = "data", "callbacks", "rows", "small batch", "compute"
COMMUNICATION = "communication"

#: Section of a setting → the bottleneck that it helps against, if that is not the computing.
_KINDS = {"data": DATA, "parallel": COMMUNICATION}


def list_remedies(session: Session, step: StepTime) -> list[Remedy]:
    """Return the remedies of a run, those that can gain the most first.

    This measures the rate of bf16 if it is one of them.
    """
    compute_share = step.get_share(phase.FORWARD, phase.BACKWARD, phase.PASSES, phase.OPTIMIZER, GAPS)
    waiting_share = step.get_share(phase.COMMUNICATION)
    remedies = [
        *_list_data_remedies(session, bound_gain(step, "data.num_workers")),
        *_list_callback_remedies(session, step),
        *_list_row_remedies(session, compute_bound(step.get_share(phase.EVENTS))),
        *_list_batch_remedies(session, compute_bound(compute_share + waiting_share)),
    ]
    for setting in list_speed_settings(session, SpeedGrade.STATISTICAL):
        section = setting.key.partition(".")[0]
        if setting.key in ("data.num_workers", "data.pipeline", "train.batch_size"):
            continue  # they are above
        is_precision = setting.key == "precision"
        bound = bound_bf16_gain(step, measure_bf16_factor(session)) if is_precision else bound_gain(step, setting.key)
        kind = _KINDS.get(section, COMPUTE)
        remedies += [Remedy(kind, (f"{setting.key}={value}",), setting.grade, bound) for value in setting.values]
    kept = [remedy for remedy in remedies if remedy.bound >= _LEAST_BOUND]
    return sorted(kept, key=lambda remedy: -remedy.bound)


def _list_data_remedies(session: Session, bound: float) -> Iterator[Remedy]:
    if is_read_once(session):
        return
    cores = count_cores()
    present = count_readers(session)
    counts = sorted({2 * cores, 4 * cores, 8}, key=lambda count: (count != 2 * cores, count))
    if can_be_resident(session):
        yield Remedy(DATA, ("data.pipeline=resident",), SpeedGrade.BITWISE, bound)
    for count in counts:
        if count > present:
            yield Remedy(DATA, (f"data.num_workers={count}",), SpeedGrade.BITWISE, bound)


def _list_callback_remedies(session: Session, step: StepTime) -> Iterator[Remedy]:
    """Yield the removal of each method whose callbacks take time."""
    total = sum(step.phases.values()) or 1.0
    choices = session.config.resolved["choices"]
    for name, seconds in step.phases.items():
        setting = name.removeprefix(f"{phase.CALLBACKS}/")
        group, _, choice = setting.partition(".")
        if setting != name and group in LISTS and choice:
            others = [other for other in choices[group] if other != choice]
            word = f"{group}=[{','.join(others)}]"
            yield Remedy(CALLBACKS, (word,), SpeedGrade.STATISTICAL, compute_bound(seconds / total), setting)


def _list_row_remedies(session: Session, bound: float) -> Iterator[Remedy]:
    every = session.config.log.every
    if every.unit == "step":
        yield Remedy(ROWS, (f"log.every={int(every.value) * _ROW_FACTOR}step",), SpeedGrade.BITWISE, bound)


def _list_batch_remedies(session: Session, bound: float) -> Iterator[Remedy]:
    for size in list_batch_sizes(session, _BATCH_FACTORS):
        yield Remedy(SMALL_BATCH, (f"train.batch_size={size}",), SpeedGrade.STATISTICAL, bound)
