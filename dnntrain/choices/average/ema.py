"""Exponential moving average of the weights.

Polyak & Juditsky, 1992; Tarvainen & Valpola, "Mean teachers", 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dnntrain.config.fields import Fraction, PositiveInt
from dnntrain.protocols import (
    AverageChoice,
    BuildContext,
    Claim,
    Hooks,
    MemoryUse,
    Role,
    StepInfo,
    TrainerHandles,
)
from dnntrain.utils.dtensor import fill_tensors, local_shard


@dataclass(frozen=True)
class Ema(AverageChoice):
    """average = decay * average + (1 - decay) * weights, after each step.

    The average is evaluated and exported instead of the weights. Floating-point buffers (running
    statistics of batch normalization) are averaged too; integer buffers are copied.
    """

    decay: Fraction = 0.999  # fraction of the old average kept per step
    every_steps: PositiveInt = 1  # steps between two updates; the decay is adapted to it
    decay_warmup: bool = (
        True  # true: limit the decay at update t to (1 + t) / (10 + t), so that early weights fade soon
    )

    claimed_roles: ClassVar[tuple[str, ...]] = ("EVAL_WEIGHTS",)

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.EVAL_WEIGHTS, "average.ema", "leave average.ema out"),)

    def build(self, context: BuildContext) -> Hooks:
        average = WeightAverage(self.decay, self.every_steps, self.decay_warmup)
        return Hooks(
            after_step_hooks=(average,),
            eval_weights=(average,),
            state={"ema": average},
            bindings=(average.bind,),
            memory_use=(count_one_copy,),
        )


def count_one_copy(shard_ranks: int) -> MemoryUse:
    """Return the memory of the average, which is sharded like the weights."""
    return MemoryUse(weight_copies=1)


def compute_decay(update: int, decay: float, every: int, warmup: bool) -> float:
    """Return the share of the old average kept at the `update`-th update, counted from 0.

    Updates are `every` steps apart.
    """
    old_share: float = decay**every
    return min(old_share, (1 + update) / (10 + update)) if warmup else old_share


class WeightAverage:
    """Running average of a model's parameters and buffers, swapped in for evaluation."""

    def __init__(self, decay: float, every: int, warmup: bool) -> None:
        self._decay, self._every, self._warmup = decay, every, warmup
        self._updates = 0
        self._live: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._update: Callable[[float], None] = lambda decay: None

    replaces = "weights"

    def bind(self, handles: TrainerHandles) -> None:
        self._live = {name: tensor.detach() for name, tensor in handles.model.state_dict(keep_vars=True).items()}
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}
        pairs = [(local_shard(self._average[name]), local_shard(live)) for name, live in self._live.items()]
        floats = [pair for pair in pairs if pair[1].is_floating_point()]
        integer_pairs = [pair for pair in pairs if not pair[1].is_floating_point()]
        averages, lives = [average for average, _ in floats], [live for _, live in floats]

        def update(decay: float) -> None:
            get_ema_multi_avg_fn(decay)(averages, lives, None)  # type: ignore[no-untyped-call]
            for average, live in integer_pairs:
                average.copy_(live)

        self._update = update

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        if step_info.step % self._every == 0:
            self._update(compute_decay(self._updates, self._decay, self._every, self._warmup))
            self._updates += 1

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        names = list(self._live)
        self._swap(names)
        try:
            yield
        finally:
            # Names of one tensor, such as a tied head, have an average each: the last one is swapped out first.
            self._swap(names[::-1])

    @torch.no_grad()
    def _swap(self, names: Sequence[str]) -> None:
        for name in names:
            tensor = self._live[name]
            live, average = local_shard(tensor), local_shard(self._average[name])
            original = live.clone()
            live.copy_(average)
            average.copy_(original)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])
        fill_tensors(self._average, state["average"])
