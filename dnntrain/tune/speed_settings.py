"""List the settings that may make a run faster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Micro-batches smaller than this are not tried.
_SMALLEST_MICRO_BATCH = 16


def list_speed_settings(session: Session, allow: SpeedGrade) -> list[SpeedSetting]:
    """Return the settings to try for a run up to the grade `allow`, those that change the numbers least first.

    A setting that the run has already, and one without effect in it, is not listed.
    """
    settings = [
        *_list_choice_settings(session),
        SpeedSetting("train.cpu_threads", SpeedGrade.ROUNDING, _list_thread_counts(session)),
        *_list_layout_settings(session),
        SpeedSetting("train.compile", SpeedGrade.ROUNDING, () if session.plan.compile else ("on",)),
        SpeedSetting("train.micro_batch_size", SpeedGrade.ROUNDING, _list_micro_batches(session)),
    ]
    grades = list(SpeedGrade)
    allowed = [setting for setting in settings if setting.values and grades.index(setting.grade) <= grades.index(allow)]
    return sorted(allowed, key=lambda setting: grades.index(setting.grade))


def _list_choice_settings(session: Session) -> list[SpeedSetting]:
    """Return those that the choices of the run declare."""
    plan = session.plan
    facts = SpeedFacts(count_cores(), plan.data.resident, plan.precision.torch_dtype is None, plan.ranks)
    return [
        setting for choice in session.config.name_choices().values() for setting in choice.list_speed_settings(facts)
    ]


def _list_thread_counts(session: Session) -> tuple[str, ...]:
    if session.hardware.device != "cpu":
        return ()
    cores = count_cores()
    counts = dict.fromkeys((1, 2, max(1, cores // 2), cores))
    return tuple(str(count) for count in counts if count <= cores and count != session.plan.threads)


def _list_layout_settings(session: Session) -> list[SpeedSetting]:
    """Return the other memory format of a network with convolutions."""
    if not session.plan.model.convolutional:
        return []
    value = "off" if session.plan.channels_last else "on"
    return [SpeedSetting("train.channels_last", SpeedGrade.ROUNDING, (value,))]


def _list_micro_batches(session: Session) -> tuple[str, ...]:
    """Return half and twice the micro-batch; batch norm would see other statistics, so not with it."""
    plan = session.plan
    if plan.model.batch_norms or plan.batch_size != session.config.train.batch_size:
        return ()
    size = plan.micro_batch_size
    sizes = [size // 2 if size % 2 == 0 else 0, 2 * size]
    return tuple(str(value) for value in sizes if _SMALLEST_MICRO_BATCH <= value <= plan.batch_size)
