"""What watches each step between its gradients and the update, and what it may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Action(IntEnum):
    """What an alarm asks for, the gravest last."""

    LOG = auto()
    SKIP = auto()
    ROLLBACK = auto()
    STOP = auto()


@dataclass(frozen=True)
class Alarm:
    """What a guard has found: written as a row of split "event", and acted upon.

    SKIP      the step's gradients are not applied: neither weights nor momentum nor buffers change, nor what a layout carries over,
              on any rank
    ROLLBACK  back to the last checkpoint, the learning rate times `cut` from there on, the step's examples left out. Where `good_until` is
              stated, the cause lies in a step after that one: back to the last checkpoint from there or before, and nothing is left out
    STOP      the run ends as diverged, as it does after `recoveries` skips in a row or rollbacks of the run
    """

    event: str
    reason: str
    action: Action
    values: Mapping[str, float] = field(default_factory=dict)
    max_recoveries: int = 0
    lr_factor: float = 1.0
    last_good_step: int | None = None


class StepTiming(NamedTuple):
    """Number of the step, from 1, and the seconds that this rank waited for its batch."""

    step: int
    wait_s: float


class StepStats(NamedTuple):
    """A step as all ranks see it, before its gradients are applied.

    step           its number, from 1
    loss           mean over the examples of all ranks; not finite where that of any is not
    gradient_norm  global L2 norm before clipping; infinite where a gradient is not finite on any rank
    sums           what the guard measured, summed over all ranks; empty where it measured nothing
    """

    step: int
    loss: float
    gradient_norm: float
    sums: Sequence[float]


class StepGuard(ABC):
    """Watches each step between gradients and update. Decides from `StepStats` and its own state alone, so that all ranks decide the same.

    needs_gradients  loss and norm are read at every step, for which the host waits for the device; else they are NaN
    action           the gravest that it may ask for
    """

    needs_gradients: ClassVar[bool] = False
    action: Action

    @property
    def rollback_steps(self) -> Sequence[int]:
        """Steps that its alarms may state as `last_good_step`: their checkpoints are kept."""
        return ()

    def measure(self, timing: StepTiming) -> Tensor | None:
        """float [k] on the device, of this rank; None, in the same steps on all ranks, if there is nothing to sum."""
        return None

    @abstractmethod
    def judge(self, stats: StepStats) -> Alarm | None:
        """The alarm of this step, or None."""
