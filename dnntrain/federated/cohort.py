"""Choose the clients of each round, and their work; all of it a pure function of seed and round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dnntrain.protocols.federation import Federation
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class ClientTask:
    """The work of a client in a round.

    first_step, steps  the steps of the client's own batches that it trains on
    weight             its examples: the weight of its update in the mean
    examples           examples over all steps
    """

    client: int
    first_step: int
    steps: int
    weight: int
    examples: int
    is_poisoned: bool = False


@dataclass(frozen=True)
class Round:
    """A round: the work of the clients that deliver, by client, and the number of clients asked."""

    number: int
    tasks: tuple[ClientTask, ...]
    asked: int

    @property
    def clients(self) -> list[int]:
        return [task.client for task in self.tasks]

    @property
    def examples(self) -> int:
        return sum(task.examples for task in self.tasks)


@dataclass(frozen=True)
class Cohorts:
    """The cohort of each round.

    sizes       number of examples of each client
    batch_size  examples of a step of a client; a client with fewer takes all
    """

    federation: Federation
    sizes: tuple[int, ...]
    batch_size: int
    seed: int
    drop_last: bool = False

    def plan(self, number: int) -> Round:
        """Return round `number`, from 0. A client that drops out is asked, and has no task."""
        faults, clients = self.federation.faults, self._draw(number)
        lost = Key(self.seed, "client dropout", number).uniform(clients) < faults.drop_rate
        late = Key(self.seed, "client straggler", number)
        is_late, share = late.uniform(clients) < faults.straggler_rate, late.uniform(clients, draw=1)
        tasks = [
            self.make_task(client, number, float(part) if is_slow else 1.0)
            for client, is_lost, is_slow, part in zip(clients.tolist(), lost, is_late, share, strict=True)
            if not is_lost
        ]
        return Round(number, tuple(tasks), len(clients))

    def _draw(self, number: int) -> Index:
        """Return the clients that are asked, in ascending order.

        Accountants of privacy assume that each client is drawn by itself.
        """
        everyone, key = np.arange(self.federation.clients), Key(self.seed, "cohort", number)
        if self.federation.privacy.mode == "central":
            return everyone[key.uniform(everyone) < self.federation.fraction]
        return np.sort(key.permutation(everyone)[: self.federation.cohort])

    def count_steps(self, client: int) -> int:
        """Return the steps of a whole round of `client`."""
        if self.federation.local_steps is not None:
            return self.federation.local_steps
        return self.federation.local_epochs * self._count_steps_per_epoch(client)

    def _count_steps_per_epoch(self, client: int) -> int:
        size = self.sizes[client]
        batch = min(self.batch_size, size)
        return size // batch if self.drop_last else -(-size // batch)

    def make_task(self, client: int, number: int, share: float = 1.0) -> ClientTask:
        """Return the work of `client` in round `number`; a straggler does the `share` of its steps."""
        whole = self.count_steps(client)
        first, steps = number * whole, max(1, int(share * whole))
        per_epoch, size = self._count_steps_per_epoch(client), self.sizes[client]
        batch = min(self.batch_size, size)
        examples = sum(min(batch, size - (step % per_epoch) * batch) for step in range(first, first + steps))
        return ClientTask(client, first, steps, size, examples, client in self._poisoned)

    @cached_property
    def _poisoned(self) -> frozenset[int]:
        count = round(self.federation.faults.poisoned * self.federation.clients)
        everyone = np.arange(self.federation.clients)
        return frozenset(Key(self.seed, "poisoned clients").permutation(everyone)[:count].tolist())


def share_tasks(tasks: Sequence[ClientTask], ranks: int) -> list[list[ClientTask]]:
    """Return the tasks of each rank: the longest first, each to the rank with the least work so far."""
    shares: list[list[ClientTask]] = [[] for _ in range(ranks)]
    work = [0] * ranks
    for task in sorted(tasks, key=lambda task: (-task.examples, task.client)):
        rank = work.index(min(work))
        shares[rank].append(task)
        work[rank] += task.examples
    return shares
