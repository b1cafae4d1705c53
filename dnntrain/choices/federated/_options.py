"""Options and checks that all federated algorithms share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from dnntrain.config.fields import Annotated, Fraction, Literal, NonNegative, Positive, PositiveInt, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    FederatedChoice,
    Hooks,
    LayoutRequirement,
    MemoryUse,
    Refusal,
    Role,
    RunFacts,
)
from dnntrain.protocols.federation import (
    MAX_COHORT,
    ClientFaults,
    Compression,
    Federation,
    Partition,
    Privacy,
    count_cohort,
)
from dnntrain.utils.units import pluralize

if TYPE_CHECKING:
    from dnntrain.protocols.federation import ClientRule, JoinTable, ServerStep


#: Two digits, rounded down: the largest value that a message proposes must be allowed.
_TWO_DIGITS = Context(prec=2, rounding=ROUND_DOWN)


@dataclass(frozen=True)
class FederatedOptions(FederatedChoice):
    """Clients, rounds, local work, partition, faults, privacy and compression."""

    clients: PositiveInt = 10  # number of clients that share the training examples
    fraction: Annotated[float, Range(above=0, at_most=1)] = 1.0  # share of the clients that take part in a round
    rounds: PositiveInt | None = None  # length of the run; null: train.duration, of which a step or an epoch is a round
    local_steps: PositiveInt | None = None  # optimizer steps of a client in a round; null: local_epochs
    local_epochs: PositiveInt = 1  # passes of a client over its own examples in a round
    partition: Literal["iid", "dirichlet", "shards", "by_column"] = "iid"  # rule that gives examples to clients
    alpha: Positive = 0.5  # dirichlet: the smaller, the more unequal are the clients' class shares
    shards: PositiveInt = 2  # shards: parts of the examples sorted by class that a client gets
    column: str = ""  # by_column: column of the table, of which each value belongs to one client
    drop_rate: Fraction = 0.0  # probability that a client of a round drops out
    straggler_rate: Fraction = 0.0  # probability that a client does only a part of its steps
    poisoned: Fraction = 0.0  # share of the clients that send false updates, to try the robustness of a server
    compress: Literal["none", "int8", "topk"] = "none"  # form of updates to the server
    topk: Annotated[float, Range(above=0, at_most=1)] = 0.01  # topk: share of the entries that is sent
    dp: Literal["none", "central", "local"] = "none"  # differential privacy: where noise is added
    clip: Positive = 1.0  # dp: largest L2 norm of an update
    noise: NonNegative = 1.0  # dp: deviation of the noise, as a multiple of clip
    delta: Annotated[float, Range(above=0, below=1)] = 1e-5  # dp: probability with which the guarantee may fail

    is_federated: ClassVar[bool] = True
    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    def make_hooks(
        self,
        server: ServerStep | None = None,
        rule: ClientRule | None = None,
        join: JoinTable | None = None,
        sends_extra: int = 0,
    ) -> Hooks:
        """Return the hooks of a federation; without a `server` of its own it takes the mean of the clients."""
        from dnntrain.federated.server import MeanServer

        federation = Federation(
            clients=self.clients,
            fraction=self.fraction,
            local_steps=self.local_steps,
            local_epochs=self.local_epochs,
            partition=Partition(self.partition, self.alpha, self.shards, self.column),
            faults=ClientFaults(self.drop_rate, self.straggler_rate, self.poisoned),
            privacy=Privacy(self.dp, self.clip, self.noise, self.delta),
            compression=Compression(self.compress, self.topk),
            server=server or MeanServer(),
            rule=rule,
            join=join,
            sends_extra=sends_extra,
        )
        # The server's weights, a client's and the two words of a sum are of 8 bytes.
        vectors = 8 + self.clients * (sends_extra + (self.compress != "none"))
        copies = vectors + (federation.cohort if join is not None else 0)
        return Hooks(federation=federation, memory_use=(partial(_count_copies, copies),))

    def find_option_refusals(self) -> Iterator[Refusal]:
        """Find options without effect."""
        changed = self.get_changed_options()
        for option, key, value in (
            ("alpha", "partition", "dirichlet"),
            ("shards", "partition", "shards"),
            ("column", "partition", "by_column"),
            ("topk", "compress", "topk"),
        ):
            if option in changed and vars(self)[key] != value:
                yield Refusal(
                    f"federated.{option} has no effect with federated.{key}={vars(self)[key]}",
                    f"use federated.{key}={value}, or leave federated.{option} out",
                )
        for option in ("clip", "noise", "delta"):
            if option in changed and self.dp == "none":
                yield Refusal(
                    f"federated.{option} has no effect without privacy",
                    f"use federated.dp=central or federated.dp=local, or leave federated.{option} out",
                )
        if self.local_steps is not None and "local_epochs" in changed:
            yield Refusal(
                "federated.local_steps and federated.local_epochs both set the local work", "keep one of them"
            )
        if self.fraction * self.clients > MAX_COHORT:
            largest = float(_TWO_DIGITS.create_decimal(MAX_COHORT / self.clients))
            yield Refusal(
                f"federated.clients={self.clients} with federated.fraction={self.fraction:g} asks for more than "
                f"{MAX_COHORT} clients in a round",
                f"use federated.fraction={largest:g} or less",
            )
        if self.partition == "by_column" and not self.column:
            yield Refusal("federated.partition=by_column needs federated.column", "name a column of the table")

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        """Find a precision and an optimizer that clients cannot share."""
        if facts.uses_loss_scale:
            yield Refusal(
                "federated does not support float16, because its loss scale would pass from client to client",
                "use precision=bf16 or precision=fp32",
            )
        for claim in facts.get_claims(Role.ACTIVATION_RANGES):
            if facts.ranks > 1:
                yield Refusal(
                    f"federated does not support {claim.setting} on {facts.ranks} ranks, because each would measure "
                    "ranges on its own clients only",
                    f"use parallel=single, or {claim.remedy}",
                )
            if self.dp != "none":
                yield Refusal(
                    f"federated.dp={self.dp} does not support {claim.setting}, because the ranges of activations would "
                    "leave clients without noise",
                    f"use federated.dp=none, or {claim.remedy}",
                )
        for claim in facts.get_claims(Role.EVAL_WEIGHTS):
            if claim.setting.startswith("optim="):
                yield Refusal(
                    f"federated does not support {claim.setting}, because its average lasts longer than a client's steps",
                    claim.remedy,
                )

    def find_export_refusal(self) -> Refusal | None:
        name = type(self).__name__
        return Refusal(
            f"export-app does not support {name}, because the server of the app takes the mean of the clients",
            "use federated=fedavg or federated=fedprox",
        )

    def find_simulation_refusal(self) -> Refusal | None:
        """Return the setting that only a simulation has, if any."""
        for option in ("drop_rate", "straggler_rate", "poisoned", "compress", "dp"):
            if option in self.get_changed_options():
                return Refusal(
                    f"export-app does not support federated.{option}, which belongs to the simulation",
                    f"leave federated.{option} out",
                )
        return None

    def check_with(self, hooks: Hooks) -> None:
        """Raise ConfigError if another method works between the local steps of clients."""
        for is_used, feature, hint in (
            (
                hooks.reshaping is not None,
                "cuts of the network, because clients keep vectors of its size",
                "prune in a second run: init_from=RUN prune=structured",
            ),
            (
                bool(hooks.step_guards),
                "monitors of steps, because a step of the run is a round of many clients",
                "leave the monitor out; early_stopping is supported",
            ),
            (
                any(weights.replaces == "statistics" for weights in hooks.eval_weights),
                "statistics that are measured again on training examples, because clients keep their examples",
                "use norm=group or a model without batch norm",
            ),
            (
                self.dp != "none" and bool(hooks.weight_inits),
                f"weights that are set from training images with federated.dp={self.dp}, because they would leave "
                "clients without noise",
                "leave reg=[whitening] out, or use federated.dp=none",
            ),
            (
                any(transform.is_joint for transform in hooks.batch_transforms),
                "a teacher that is sharded over ranks",
                "use parallel=single or parallel=ddp",
            ),
        ):
            if is_used:
                raise ConfigError(f"federated does not support {feature}", hint)

    def notes(self, examples: int, ranks: int) -> tuple[str, ...]:
        cohort = count_cohort(self.fraction, self.clients)
        passes = pluralize(self.local_epochs, "epoch")
        work = pluralize(self.local_steps, "step") if self.local_steps else f"{passes} of its examples"
        notes = [
            f"federated: {cohort} of {pluralize(self.clients, 'client')} a round, each for {work}; "
            "a step and an epoch of the run are a round, train.batch_size is a client's"
        ]
        if ranks > cohort:
            notes.append(f"{ranks - cohort} of {ranks} ranks have no client in a round")
        if self.dp != "none":
            notes.append("the noise of federated.dp is keyed by the seed: a simulation that protects nobody")
        return tuple(notes)


def _count_copies(copies: int, shard_ranks: int) -> MemoryUse:
    return MemoryUse(weight_copies=copies)
