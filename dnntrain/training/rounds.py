"""Train the rounds of a federated run: to the loop, a round is a step.

One model is in memory. It takes the weights of the server, trains the steps of one client, gives its
weights to the join, and the next client follows. The ranks share the clients of a round; only joined
weights pass between ranks, in sums that do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dnntrain.distributed.collectives import reduce_sum
from dnntrain.errors import DivergedError
from dnntrain.federated.averaging import Join, MeanJoin, PrivateJoin, TableJoin
from dnntrain.federated.cohort import ClientTask, Round, share_tasks
from dnntrain.federated.payload import Payload, find_sum_device
from dnntrain.federated.transmission import Transmission
from dnntrain.protocols import (
    Batch,
    GradientStage,
    GradientTransform,
    OptimizerStep,
    PhaseMarker,
    StepBatch,
    StepExecutor,
    StepLoss,
)
from dnntrain.protocols.federation import ClientRule, Federation
from dnntrain.training.client_batches import ClientBatches
from dnntrain.utils.rng import derive_seed
from dnntrain.utils.world import World

Observe = Callable[[Mapping[str, Tensor]], None]

#: The entries of an optimizer's group that do not belong to a client: schedules set them.
_SCHEDULED = frozenset({"params", "lr", "initial_lr", "momentum", "betas", "weight_decay"})


@dataclass(frozen=True)
class LocalTraining:
    """The parts that train a client: its executor, its update, and the optimizers, whose state a client begins without."""

    executor: StepExecutor
    update: OptimizerStep
    apply: Callable[[], None]
    optimizers: Sequence[torch.optim.Optimizer]


class RoundExecutor:
    """Trains a round as a step: the clients in `compute_gradients`, the server in `apply`.

    get_round  returns the number of the round
    observe    receives the bytes sent so far, in MB
    """

    def __init__(
        self,
        federation: Federation,
        batches: ClientBatches,
        payload: Payload,
        local: LocalTraining,
        *,
        seed: int,
        world: World,
        device: str,
        get_round: Callable[[], int],
        observe: Observe,
    ) -> None:
        self._federation, self._batches, self._payload, self._local = federation, batches, payload, local
        self._seed, self._world, self._device = seed, world, device
        self._get_round, self._observe = get_round, observe
        self._sum_device = find_sum_device(device)
        self._transmission = Transmission(federation, payload, seed, self._sum_device)
        self._new_groups = [[_copy_counters(group) for group in item.param_groups] for item in local.optimizers]
        self._start = torch.empty(0)
        self._mean: Tensor | None = None
        self._bytes_up = self._bytes_down = 0

    def compute_gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss:
        """Train the clients of this rank, and join the weights of all ranks."""
        plan = self._batches.cohorts.plan(self._get_round())
        start = self._payload.read(self._sum_device)
        total, weight = torch.zeros((), device=self._device), torch.zeros((), dtype=torch.int64, device=self._device)
        join = self._make_join(start, plan)
        for task in share_tasks(plan.tasks, self._world.size)[self._world.rank]:
            losses, weights = self.train_client(task, plan.number, start)
            total = total + sum(loss.total for loss in losses)
            weight = weight + sum(loss.weight for loss in losses)
            join.add(plan.clients.index(task.client), task.weight, weights)
        self._payload.write(start)
        self._reset_client("server", plan.number)
        self._start, self._mean = start, self._finish_round(plan, join)
        return StepLoss(total, plan.examples, reduce_sum(weight))

    def apply(self) -> None:
        """Set the new weights of the server."""
        if self._mean is None:  # no client delivered
            return
        trained = self._payload.weights
        new_weights = self._federation.server.step(self._start[:trained], self._mean[:trained])
        self._payload.write(torch.cat([new_weights, self._mean[trained:]]))

    def mark_phases(self, mark: PhaseMarker) -> None:
        self._local.executor.mark_phases(mark)

    def suspend_sync(self) -> AbstractContextManager[None]:
        return self._local.executor.suspend_sync()

    def compute_outputs(self, batch: Batch) -> Tensor:
        return self._local.executor.compute_outputs(batch)

    def _make_join(self, start: Tensor, plan: Round) -> Join:
        size, federation = self._payload.size, self._federation
        if federation.privacy.mode == "central":
            # Each client is drawn by itself, so the divisor is the mean number of clients.
            expected = federation.fraction * federation.clients
            return PrivateJoin(start, self._sum_device, expected, self._transmission.draw_central_noise(plan.number))
        if federation.join is not None:
            return TableJoin(size, self._sum_device, len(plan.tasks), self._payload.weights, federation.join)
        return MeanJoin(size, self._sum_device, sum(task.weight for task in plan.tasks))

    def train_client(self, task: ClientTask, number: int, start: Tensor) -> tuple[list[StepLoss], Tensor]:
        """Return the losses of a client's steps, and its weights as the server gets them."""
        local, rule = self._local, self._federation.rule
        self._payload.write(start)
        self._reset_client("client", number, task.client)
        if rule is not None:
            rule.begin(task.client)
        batches = self._batches.open_client(task.client)
        losses = [
            local.update(partial(local.executor.compute_gradients, batches.take(step)), local.apply)
            for step in range(task.first_step, task.first_step + task.steps)
        ]
        if rule is not None:
            rule.end(task.client, task.steps)
        weights = self._payload.read(self._sum_device)
        if not bool(torch.isfinite(weights).all()):
            raise DivergedError(
                f"the weights of client {task.client} are not finite after round {number + 1}: training has diverged",
                "lower optim.lr, or add +reg=[grad_clip]",
            )
        return losses, self._transmission.send(task.client, number, start, weights, task.is_poisoned)

    def _reset_client(self, *names: str | int) -> None:
        """Forget the optimizers' state, and key torch's generators: a client may run on any rank."""
        for optimizer, new_groups in zip(self._local.optimizers, self._new_groups, strict=True):
            optimizer.state.clear()
            for group, new_group in zip(optimizer.param_groups, new_groups, strict=True):
                # Some optimizers count steps for a group, not for a parameter.
                for key in set(group) - _SCHEDULED - set(new_group):
                    del group[key]
                group.update(deepcopy(new_group))
        torch.manual_seed(derive_seed(self._seed, "federated", *names))

    def _finish_round(self, plan: Round, join: Join) -> Tensor | None:
        """Return the joined weights of all ranks, and exchange what clients keep; None if no client delivered."""
        federation, transmission = self._federation, self._transmission
        if federation.rule is not None:
            federation.rule.finish_round(plan.clients, reduce_sum)
        if federation.compression.kind != "none":
            transmission.errors.share(plan.clients, self._payload.weights, self._sum_device, reduce_sum)
        self._bytes_up += len(plan.tasks) * transmission.bytes_up
        self._bytes_down += plan.asked * transmission.bytes_down
        megabytes = {"mb_up": self._bytes_up / 1e6, "mb_down": self._bytes_down / 1e6}
        self._observe({name: torch.tensor(value, dtype=torch.float64) for name, value in megabytes.items()})
        is_empty = not plan.tasks and federation.privacy.mode != "central"
        return None if is_empty else join.finish(reduce_sum)

    def state_dict(self) -> dict[str, Any]:
        rule = self._federation.rule
        return {
            "bytes_up": self._bytes_up,
            "bytes_down": self._bytes_down,
            "server": self._federation.server.state_dict(),
            "rule": {} if rule is None else rule.state_dict(),
            "errors": self._transmission.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._bytes_up, self._bytes_down = int(state["bytes_up"]), int(state["bytes_down"])
        self._federation.server.load_state_dict(state["server"])
        if self._federation.rule is not None:
            self._federation.rule.load_state_dict(state["rule"])
        self._transmission.load_state_dict(state["errors"])


def _copy_counters(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the entries of an optimizer's group that its steps may change."""
    return deepcopy({key: value for key, value in group.items() if key not in _SCHEDULED})


def make_correction(rule: ClientRule | None) -> tuple[GradientTransform, ...]:
    """Return the rule of the clients as a change of gradients, before all others."""
    if rule is None:
        return ()

    def correct(gradients: Sequence[Tensor]) -> None:
        rule.correct()

    return (GradientTransform(GradientStage.PENALTY, correct),)
