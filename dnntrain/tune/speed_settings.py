"""List the settings that may make a run faster on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dnntrain.input.worker_replies import choose_worker_count
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting
from dnntrain.utils.hardware import count_cores
from dnntrain.utils.words import get_key

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Data may take this share of the memory.
_RESIDENT_SHARE = 0.25
#: Micro-batches smaller than this are not tried.
_SMALLEST_MICRO_BATCH = 16
#: Batches larger than this are not tried.
_LARGEST_BATCH = 4096


def list_speed_settings(session: Session, allow: SpeedGrade) -> list[SpeedSetting]:
    """Return the settings to try for a run up to the grade `allow`, those that change the numbers least first.

    A setting that the run has already, and one without effect in it, is not listed.
    """
    settings = [
        SpeedSetting("data.pipeline", SpeedGrade.BITWISE, ("resident",) if can_be_resident(session) else ()),
        *_list_choice_settings(session),
        SpeedSetting("train.cpu_threads", SpeedGrade.ROUNDING, _list_thread_counts(session)),
        *_list_layout_settings(session),
        SpeedSetting("train.compile", SpeedGrade.ROUNDING, () if session.plan.compile else ("on",)),
        SpeedSetting("train.micro_batch_size", SpeedGrade.ROUNDING, _list_micro_batches(session)),
        _make_batch_setting(session),
    ]
    return select_allowed(settings, allow)


def list_memory_settings(session: Session, allow: SpeedGrade) -> list[SpeedSetting]:
    """Return the settings that may need less memory, up to the grade `allow`, in the same order."""
    plan = session.plan
    checkpointing = session.config.train.activation_checkpointing
    levels = ("selective", "full")
    later = levels[levels.index(checkpointing) + 1 :] if checkpointing in levels else levels
    halves = [plan.micro_batch_size // factor for factor in (2, 4, 8) if plan.micro_batch_size % factor == 0]
    settings = [
        SpeedSetting(
            "train.micro_batch_size", SpeedGrade.ROUNDING, tuple(map(str, halves)) if _may_split(session) else ()
        ),
        SpeedSetting("train.activation_checkpointing", SpeedGrade.ROUNDING, later if plan.model.blocks else ()),
        *(setting for setting in _list_choice_settings(session) if setting.key == "precision"),
    ]
    return select_allowed(settings, allow)


def is_read_once(session: Session) -> bool:
    """Return whether the steps of a run find their data in memory: all of them, or those after the first epoch."""
    plan = session.plan
    is_longer_than_an_epoch = not plan.total_steps or plan.total_steps > plan.steps_per_epoch
    return plan.data.resident or (plan.data.cached and is_longer_than_an_epoch)


def describe_measured_steps(session: Session) -> str:
    """Return `a step`, or which steps are measured if the first epoch is slower."""
    is_filling = session.plan.data.cached and is_read_once(session)
    return "a step after the first epoch (which reads the files)" if is_filling else "a step"


def count_readers(session: Session) -> int:
    """Return the processes with which a rank of the run reads its data."""
    plan = session.plan
    return 0 if is_read_once(session) else choose_worker_count(session.config.data.num_workers, plan.ranks)


def can_be_resident(session: Session) -> bool:
    """Return whether data that processes read would take a small part of the memory."""
    data = session.plan.data
    size_bytes = (data.train + data.val + data.test) * math.prod(data.spec.inputs.shape)
    size_bytes *= data.spec.inputs.bytes_per_value
    # Resident data passes through the host's memory to the device's.
    hardware = session.hardware
    memory_bytes = min(hardware.memory_bytes, hardware.get_device_memory_bytes(session.plan.ranks))
    return not is_read_once(session) and size_bytes <= _RESIDENT_SHARE * memory_bytes


def has_effect(word: str, words: Sequence[str]) -> bool:
    """Return whether an override has an effect in a line of `words`: data in memory is read once, without readers."""
    return not (get_key(word) in ("data.num_workers", "data.decode") and "data.pipeline=resident" in words)


def select_allowed(settings: Iterable[SpeedSetting], allow: SpeedGrade) -> list[SpeedSetting]:
    """Return the settings with values up to the grade `allow`, those that change the numbers least first."""
    grades = list(SpeedGrade)
    allowed = [setting for setting in settings if setting.values and grades.index(setting.grade) <= grades.index(allow)]
    return sorted(allowed, key=lambda setting: grades.index(setting.grade))


def _list_choice_settings(session: Session) -> list[SpeedSetting]:
    """Return those that the choices of the run declare."""
    plan = session.plan
    is_float32 = plan.precision.torch_dtype is None
    facts = SpeedFacts(count_cores(), is_read_once(session), is_float32, plan.ranks, count_readers(session))
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
    """Return half and twice the micro-batch."""
    plan = session.plan
    if not _may_split(session):
        return ()
    size = plan.micro_batch_size
    sizes = [size // 2 if size % 2 == 0 else 0, 2 * size]
    return tuple(str(value) for value in sizes if _SMALLEST_MICRO_BATCH <= value <= plan.batch_size)


def _make_batch_setting(session: Session) -> SpeedSetting:
    """Return twice and four times the batch size; none if the length is in steps, which would read more examples."""
    duration = session.config.train.duration
    sizes = () if duration is not None and duration.unit == "step" else list_batch_sizes(session, (2, 4))
    rules = session.config.optim.list_rules_for_batch_size(session.plan.batch_size)
    return SpeedSetting("train.batch_size", SpeedGrade.STATISTICAL, sizes, rules)


def list_batch_sizes(session: Session, factors: Iterable[int]) -> tuple[str, ...]:
    """Return the multiples of the batch size that the data allows; none if the run changes it or fixes its parts."""
    plan = session.plan
    if not plan.timetable.is_constant or session.config.train.micro_batch_size is not None:
        return ()
    sizes = (plan.batch_size * factor for factor in factors)
    return tuple(str(size) for size in sizes if size <= min(plan.data.train, _LARGEST_BATCH))


def _may_split(session: Session) -> bool:
    """Return whether other micro-batches give the same numbers; batch norm would see other statistics."""
    return not session.plan.model.batch_norms and session.plan.batch_size == session.config.train.batch_size
