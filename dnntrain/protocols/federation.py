"""Federated training as a method states it: the clients, their local work, and the server.

A method of the group `federated` fills the slot `federation` of `Hooks`. The trainer then trains
clients between two states of the server, and one step of its loop is a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from dnntrain.protocols.choice import Method, Refusal
from dnntrain.protocols.hook_types import Stateful
from dnntrain.utils.units import Duration

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@dataclass(frozen=True)
class Partition:
    """The rule that gives each training example to one client.

    kind    iid: at random; dirichlet: the shares of each class follow a Dirichlet distribution;
            shards: a few parts of the examples sorted by class; by_column: the values of a column
    alpha   concentration of the Dirichlet distribution: the smaller, the more unequal
    shards  parts for each client
    column  name of the column
    """

    kind: Literal["iid", "dirichlet", "shards", "by_column"] = "iid"
    alpha: float = 0.5
    shards: int = 2
    column: str = ""


@dataclass(frozen=True)
class ClientFaults:
    """Faults of clients, keyed by round and client.

    drop_rate       probability that a client sends nothing
    straggler_rate  probability that a client does a part of its steps only
    poisoned        share of the clients that send false updates
    """

    drop_rate: float = 0.0
    straggler_rate: float = 0.0
    poisoned: float = 0.0


@dataclass(frozen=True)
class Privacy:
    """Differential privacy of updates: their norm is at most `clip`, and noise is added.

    mode   none; central: the server adds noise to the sum; local: each client adds noise
    clip   largest L2 norm of the update of a client
    noise  standard deviation of the noise as a multiple of `clip`
    delta  probability of the guarantee
    """

    mode: Literal["none", "central", "local"] = "none"
    clip: float = 1.0
    noise: float = 1.0
    delta: float = 1e-5


@dataclass(frozen=True)
class Compression:
    """The form of updates on their way to the server; the error of a client is added to its next update.

    kind   none: float32; int8: whole numbers and a scale for each tensor; topk: the largest entries
    share  share of the entries that topk keeps
    """

    kind: Literal["none", "int8", "topk"] = "none"
    share: float = 0.01


class ClientRule(Stateful, Protocol):
    """A change of the gradients of clients."""

    def bind(self, parameters: Sequence[Parameter]) -> None:
        """Receive the parameters that are trained, once."""
        ...

    def begin(self, client: int) -> None:
        """Prepare for the local steps of `client`, which begin at the weights of the server."""
        ...

    def correct(self) -> None:
        """Change the gradients of a local step in place."""
        ...

    def end(self, client: int, steps: int) -> None:
        """Note the end of the `steps` local steps of `client`."""
        ...

    def finish_round(self, clients: Sequence[int], reduce: Callable[[Tensor], Tensor]) -> None:
        """Update the state after a round; all ranks call it with the same `clients`, in ascending order."""
        ...


class ServerStep(Stateful, Protocol):
    """The step of the server: new weights from its weights and the mean of the clients' weights.

    Both are flat, float64 [n], in the order of the payload.
    """

    def step(self, start: Tensor, mean: Tensor) -> Tensor: ...


#: Joins the clients' weights, float32 [clients, n], to one vector [n]. The second argument is the number
#: of entries that are trained weights; statistics follow them.
JoinTable = Callable[["Tensor", int], "Tensor"]

#: Clients of a round whose weights can be summed exactly (dnntrain/federated/exact_sum.py).
MAX_COHORT = 2**13


def count_cohort(fraction: float, clients: int) -> int:
    """Return the number of clients that a round asks for."""
    return max(1, round(fraction * clients))


@dataclass(frozen=True)
class Federation:
    """Clients that train apart, and a server that joins their weights.

    clients      number of clients
    fraction     share of the clients that take part in a round
    local_steps  optimizer steps of a client in a round; None: `local_epochs`
    local_epochs passes of a client over its own examples in a round
    rule         change of the clients' gradients, if any
    server       the step of the server
    join         joins the clients' weights in place of their mean, if any
    sends_extra  vectors of the size of the trained weights that each client sends and gets besides
    """

    clients: int
    fraction: float
    local_steps: int | None
    local_epochs: int
    partition: Partition
    faults: ClientFaults
    privacy: Privacy
    compression: Compression
    server: ServerStep
    rule: ClientRule | None = None
    join: JoinTable | None = None
    sends_extra: int = 0

    @property
    def cohort(self) -> int:
        """The number of clients that a round asks for."""
        return count_cohort(self.fraction, self.clients)


class FederatedChoice(Method):
    """Federated training.

    rounds        length of the run in rounds; None: train.duration, of which a step or an epoch is a round
    is_federated  whether clients train apart
    """

    is_federated: ClassVar[bool] = False
    rounds: int | None = None

    def set_duration(self, duration: Duration) -> Duration:
        """Return the length of the run."""
        return duration if self.rounds is None else Duration(self.rounds, "step")

    def find_option_refusals(self) -> Iterable[Refusal]:
        """Return the options without effect; torch may not be imported yet."""
        return ()

    def find_export_refusal(self) -> Refusal | None:
        """Return why an app for real clients cannot do what the choice does, or None if it can."""
        return Refusal("export-app needs a federated run", "use federated=fedavg")

    def notes(self, examples: int, ranks: int) -> tuple[str, ...]:
        """Return notes for the plan of a run with so many training examples."""
        return ()
