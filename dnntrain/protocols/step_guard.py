"""Step guards: checks between the gradients and the update of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dnntrain.protocols.method_checks import check_results_of

if TYPE_CHECKING:
    from torch import Tensor


class Action(IntEnum):
    """The reaction that an alarm requests, in ascending order of severity."""

    LOG = auto()
    SKIP = auto()
    ROLLBACK = auto()
    STOP = auto()


@dataclass(frozen=True)
class Alarm:
    """An alarm of a step guard.

    The trainer writes it as a row of split "event" and reacts to it:

    SKIP      The gradients of the step are not applied. Weights, momentum, buffers and the state of
              the layout do not change on any rank.
    ROLLBACK  The run returns to the last checkpoint, multiplies the learning rate by `lr_factor` and
              leaves out the examples of the step. If `last_good_step` is set, the cause is in a later
              step: the run returns to the last checkpoint at or before `last_good_step` and leaves
              out nothing.
    STOP      The run ends as diverged. It also does after `max_recoveries` skips in a row or
              rollbacks of the run.
    """

    event: str
    reason: str
    action: Action
    values: Mapping[str, float] = field(default_factory=dict)
    max_recoveries: int = 0
    lr_factor: float = 1.0
    last_good_step: int | None = None


class StepTiming(NamedTuple):
    """The number of a step, from 1, and this rank's wait for its batch."""

    step: int
    wait_s: float


class StepStats(NamedTuple):
    """The statistics of a step before its gradients are applied, equal on all ranks.

    step           number of the step, from 1
    loss           mean over the examples of all ranks; not finite if the loss of any rank is not
    gradient_norm  global L2 norm before clipping; infinite if a gradient of any rank is not finite
    sums           the guard's measurements, summed over all ranks; empty if it measured nothing
    """

    step: int
    loss: float
    gradient_norm: float
    sums: Sequence[float]


class StepGuard(ABC):
    """Checks each step between its gradients and its update.

    A guard must decide from `StepStats` and its own state alone, so that all ranks decide the same.

    needs_gradients  whether the guard reads loss and norm at every step, for which the host waits for
                     the device; without it they are NaN
    action           the most severe action that the guard may request
    """

    needs_gradients: ClassVar[bool] = False
    action: Action

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_results_of(cls)

    @property
    def rollback_steps(self) -> Sequence[int]:
        """Steps that alarms may name as `last_good_step`; their checkpoints are kept."""
        return ()

    def measure(self, timing: StepTiming) -> Tensor | None:
        """Return this rank's measurements, float [k] on the device, or None.

        All ranks must return None in the same steps.
        """
        return None

    @abstractmethod
    def judge(self, stats: StepStats) -> Alarm | None:
        """Return the alarm of this step, or None."""
