"""PowerSGD gradient compression: torch's hook, with saved state.

Source: Vogels et al., "PowerSGD: practical low-rank gradient compression", 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from dnntrain.utils._torch_private import get_gradient_buckets
from dnntrain.utils.world import World

#: Steps before compression starts. torch's default, 1000, would exceed a short run.
START_STEP = 10


def register_powersgd(ddp_model: Any) -> None:
    """Make the DDP module `ddp_model` send its gradients as two factors of rank 1."""
    ddp_model.sent = PowerSGDState(None, start_powerSGD_iter=START_STEP)
    ddp_model.register_comm_hook(ddp_model.sent, powerSGD_hook)


def get_powersgd_state(
    run_modules: Sequence[nn.Module], world: World, warn: Callable[[str], None]
) -> dict[str, PowerSgd]:
    """Return the state of PowerSGD by name; empty if it is not used.

    Call it before training.
    """
    module: Any = run_modules[0]
    if not hasattr(module, "sent"):
        return {}
    buckets = get_gradient_buckets(module)
    return {"powersgd": PowerSgd(module.sent, [len(buffer) for buffer in buckets], buckets[0].device, world, warn)}


class PowerSgd:
    """The state of torch's hook, which is saved in checkpoints.

    It has the number of steps, the factors P and Q of each bucket, and the error of each rank.

    The error is the part of a rank's gradients in a bucket that the factors do not represent; it is
    added to the next gradients. With another number of ranks or other buckets, the saved state does
    not fit: the hook starts again, with a warning.
    """

    def __init__(
        self,
        hook: PowerSGDState,
        buckets: Sequence[int],
        device: torch.device,
        world: World,
        warn: Callable[[str], None],
    ) -> None:
        self._hook, self._device, self._warn = hook, device, warn
        self._buckets = torch.tensor(buckets)
        self._ranks, self._rank = world.size, str(world.rank)

    def state_dict(self) -> dict[str, Any]:
        return {
            "ranks": self._ranks,
            "buckets": self._buckets,
            "steps": self._hook.iter,
            "p": _with_string_keys(self._hook.p_memory_dict),
            "q": _with_string_keys(self._hook.q_memory_dict),
            "errors": {self._rank: _with_string_keys(self._hook.error_dict)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        is_compatible = state.get("ranks") == self._ranks and torch.equal(state["buckets"], self._buckets)
        if not is_compatible:
            self._warn(
                "parallel.grad_compression=powersgd starts again without the errors of earlier gradients: "
                + (
                    f"the errors in the checkpoint are from {state['ranks']} ranks and do not fit"
                    if state
                    else "the checkpoint was saved without powersgd"
                )
            )
            state = {"steps": 0, "p": {}, "q": {}, "errors": {}}
        errors = state["errors"].get(self._rank, {})
        self._set_state(int(state["steps"]), *map(self._to_device_buckets, (state["p"], state["q"], errors)))

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores the current state, for a step that is skipped.

        The error of such a step may not be finite.
        """
        hook = self._hook
        # The hook updates the factors in place, but creates the errors again.
        p, q = (
            {bucket: factors.clone() for bucket, factors in memory.items()}
            for memory in (hook.p_memory_dict, hook.q_memory_dict)
        )
        return partial(self._set_state, hook.iter, p, q, dict(hook.error_dict))

    def _set_state(self, steps: int, p: dict[int, Tensor], q: dict[int, Tensor], errors: dict[int, Tensor]) -> None:
        self._hook.iter = steps
        # The generator is used once only, for the initial factors.
        self._hook.rng = np.random.RandomState(0)
        self._hook.p_memory_dict, self._hook.q_memory_dict, self._hook.error_dict = p, q, errors

    def _to_device_buckets(self, saved: Mapping[str, Tensor]) -> dict[int, Tensor]:
        return {int(bucket): tensor.to(self._device, copy=True) for bucket, tensor in saved.items()}


def _with_string_keys(buckets: Mapping[int, Tensor]) -> dict[str, Tensor]:
    return {str(bucket): tensor for bucket, tensor in sorted(buckets.items())}
