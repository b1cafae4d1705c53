"""List the settings that may make a run faster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnntrain.tune.grades import SpeedGrade, SpeedKnob
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Micro-batches smaller than this are not tried.
_SMALLEST_MICRO_BATCH = 16


def list_knobs(session: Session, allow: SpeedGrade) -> list[SpeedKnob]:
    """Return the settings to try for a run up to the grade `allow`, those with the greatest effect first.

    A setting that the run has already, and one without effect in it, is not listed.
    """
    knobs = [
        *_list_data_knobs(session),
        SpeedKnob("train.cpu_threads", SpeedGrade.ROUNDING, _list_thread_counts(session)),
        *_list_layout_knobs(session),
        SpeedKnob("train.compile", SpeedGrade.ROUNDING, () if session.plan.compile else ("on",)),
        SpeedKnob("train.micro_batch_size", SpeedGrade.ROUNDING, _list_micro_batches(session)),
        SpeedKnob("precision", SpeedGrade.STATISTICAL, ("bf16",) if session.plan.precision.name == "fp32" else ()),
    ]
    grades = list(SpeedGrade)
    return [knob for knob in knobs if knob.values and grades.index(knob.grade) <= grades.index(allow)]


def _list_data_knobs(session: Session) -> list[SpeedKnob]:
    """Return the ways to read the data: they never change a bit."""
    if session.plan.data.resident:
        return []
    cores, present = count_cores(), session.config.data.num_workers
    counts = dict.fromkeys((1, 2, cores, 2 * cores))
    workers = tuple(str(count) for count in counts if count != (cores if present is None else present))
    return [SpeedKnob("data.num_workers", SpeedGrade.BITWISE, workers)]


def _list_thread_counts(session: Session) -> tuple[str, ...]:
    if session.hardware.device != "cpu":
        return ()
    cores = count_cores()
    counts = dict.fromkeys((1, 2, max(1, cores // 2), cores))
    return tuple(str(count) for count in counts if count <= cores and count != session.plan.threads)


def _list_layout_knobs(session: Session) -> list[SpeedKnob]:
    """Return the other memory format of a network with convolutions."""
    if not session.plan.model.convolutional:
        return []
    value = "off" if session.plan.channels_last else "on"
    return [SpeedKnob("train.channels_last", SpeedGrade.ROUNDING, (value,))]


def _list_micro_batches(session: Session) -> tuple[str, ...]:
    """Return half and twice the micro-batch; batch norm would see other statistics, so not with it."""
    plan = session.plan
    if plan.model.batch_norms or plan.batch_size != session.config.train.batch_size:
        return ()
    size = plan.micro_batch_size
    sizes = [size // 2 if size % 2 == 0 else 0, 2 * size]
    return tuple(str(value) for value in sizes if _SMALLEST_MICRO_BATCH <= value <= plan.batch_size)
