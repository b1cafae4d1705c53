"""The slot of `Hooks` that cuts the network between steps, and the state that does not follow a cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.step import Batch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from dnntrain.pruning.cut import Cut
    from dnntrain.pruning.widths import Widths


@dataclass(frozen=True)
class ReshapeInputs:
    """The network that is about to be cut, and training examples to judge its channels by.

    model    the whole network in one process, on the CPU, with its weights and `widths`
    number   number of the cut in the run, from 0
    batches  `batches(examples, size)` yields so many training examples, unaugmented, in batches
    loss     sum of the task's loss over a batch: `(outputs, batch) → scalar`
    states   states of the checkpoint that is cut, by name
    """

    model: Module
    widths: Widths
    number: int
    batches: Callable[[int, int], Iterable[Batch]]
    loss: Callable[[Tensor, Batch], Tensor]
    states: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reshaping:
    """Cuts of the network between steps: training continues with a smaller one.

    The run saves a checkpoint, and continues from that checkpoint with all of its tensors cut.

    steps     numbers of completed steps after which the network is cut, ascending
    find_cut  chooses the channels that go; all ranks call it with the same inputs
    check     returns the names of the tensors that a cut may make smaller, and raises ConfigError if
              the network, whole and with zero weights, cannot be cut so; it is called before the run
              begins
    done      cuts that the run has had already
    """

    steps: tuple[int, ...]
    find_cut: Callable[[ReshapeInputs], Cut]
    check: Callable[[Module], frozenset[str]]
    done: int = 0

    @property
    def next_step(self) -> int | None:
        """Return the step of the next cut, or None."""
        return self.steps[self.done] if self.done < len(self.steps) else None

    def is_due(self, step: int) -> bool:
        """Return whether the network must be cut after `step` steps."""
        return self.next_step is not None and step >= self.next_step


class CutState(ABC):
    """State about the network as it is, which begins again when units or blocks are cut out of it.

    Any other state follows a cut: tensors under the name of a parameter are cut like the parameter.
    """

    @abstractmethod
    def make_state_after_cut(self, state: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Return the state from which the cut network begins, given `state` after `step` steps.

        It must not depend on the trainer: no bindings have been called.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, or one that `make_state_after_cut` has made."""


def is_network_change(row: Mapping[str, Any]) -> bool:
    """Return whether a row of metrics says that the network is another one from here on: cut, or masked."""
    return row["split"] == "event" and row["event"] in ("pruned", "masked")
