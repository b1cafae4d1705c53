"""Cut the network between two steps: from a checkpoint to the checkpoint of a smaller network.

A run that reaches a cut saves its state and ends its loop with `ReshapeRequest`. The state is cut
tensor by tensor, and a trainer of the smaller network is restored from it, as on resume. So every
layout, optimizer and average follows without knowing about cuts, and a killed run cuts again from
the same checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.checkpoint.checkpoint_format import LAYOUT_STATES
from dnntrain.checkpoint.read_checkpoint import Checkpoint
from dnntrain.checkpoint.state_dicts import ModelState
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.shape import ModelShape, get_storage_key
from dnntrain.protocols import Batch, CutState, Hooks, ModelStage, ModelTransform, ReshapeInputs, Reshaping
from dnntrain.pruning.cut import Cut, cut_state
from dnntrain.pruning.depth import drop_state
from dnntrain.pruning.widths import Widths, apply_widths, decode_widths
from dnntrain.training.cadence import Event, make_event
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.data import make_unaugmented_batches
from dnntrain.training.metrics_writer import Metrics
from dnntrain.training.progress import Progress
from dnntrain.training.setup import RunSetup, build_unfilled_model
from dnntrain.training.stop_signals import SignalWatch
from dnntrain.utils.rng import Key
from dnntrain.utils.units import Duration
from dnntrain.utils.world import World

#: The name of the state that holds the widths of a cut network.
STATE = "widths"

#: A step that no run reaches.
_NEVER = 1 << 62


class ReshapeRequest(Exception):
    """The loop has reached a cut; the state after `step` steps is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the network is cut after step {step}")
        self.step = step


def make_reshape_events(
    reshaping: Reshaping | None, checkpointer: Checkpointer, every: Duration, progress: Progress, signals: SignalWatch
) -> list[Event]:
    """Return the events that save the state and end the loop at the next cut, if there is one.

    If the state cannot be saved there, and checkpoint.on_error says to train on, the network is cut at the
    next checkpoint that can be saved. Raises CheckpointError if there is none up to the last step. If a
    signal has arrived, the run ends here instead, and its resume cuts the network.
    """
    if reshaping is None or reshaping.next_step is None:
        return []

    def request(step: int) -> None:
        if not reshaping.is_due(step):
            return
        if checkpointer.save_for_cut(step):
            if not signals.ends_run_at(step):
                raise ReshapeRequest(step)
        elif step == progress.total_steps:
            raise CheckpointError(
                f"the network could not be cut, because no checkpoint could be saved since step {next_step}",
                "make room, and resume the run",
            )

    next_step = reshaping.next_step
    return [
        Event(request, next_step=lambda step: next_step if step <= next_step else _NEVER),
        make_event(request, every, progress),
    ]


def make_mask_events(steps: Sequence[int], metrics: Metrics) -> list[Event]:
    """Return the event that writes a row after each of `steps`, from which on more weights are zero."""

    def write(step: int) -> None:
        if step in steps:
            metrics.write_row("event", step, {"event": "masked", "reason": "more weights are zero from here on"})

    return (
        [Event(write, next_step=lambda step: next((item for item in steps if item >= step), _NEVER))] if steps else []
    )


@dataclass(frozen=True)
class WidthsState:
    """The widths of the network as a state of checkpoints and as a transform."""

    widths: Widths

    def apply(self, model: nn.Module) -> nn.Module:
        """Make a network of full width as small."""
        return apply_widths(model, self.widths)

    def state_dict(self) -> dict[str, Any]:
        return encode_state(self.widths)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if read_widths({STATE: state}, "the checkpoint") != self.widths:
            raise ValueError("the saved network has other widths")


def add_widths(hooks: Hooks, widths: Widths) -> Hooks:
    """Return hooks that build a network of these widths and have its cuts behind them."""
    if widths.is_whole and not widths.cuts:
        return hooks
    previous, state = hooks.state.get(STATE), WidthsState(widths)
    transforms = list(hooks.model_transforms)
    if isinstance(previous, WidthsState):
        transforms = [item for item in transforms if item.apply != previous.apply]
    transforms.append(ModelTransform(ModelStage.STRUCTURE, state.apply))
    reshaping = hooks.reshaping
    return replace(
        hooks,
        model_transforms=tuple(sorted(transforms, key=lambda item: item.stage)),
        state={**hooks.state, STATE: state},
        reshaping=None if reshaping is None else replace(reshaping, done=widths.cuts),
    )


def get_widths(hooks: Hooks) -> Widths:
    """Return the widths that the hooks build a network of."""
    state = hooks.state.get(STATE)
    return state.widths if isinstance(state, WidthsState) else Widths()


def read_widths(states: Mapping[str, Any], source: str) -> Widths:
    """Return the widths in the states of a checkpoint; those of a whole network if there are none."""
    if STATE not in states:
        return Widths()
    try:
        return decode_widths(json.loads(states[STATE]["json"]), source)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: the widths of the network are damaged ({error})") from None


def encode_state(widths: Widths) -> dict[str, Any]:
    """Return widths as a state: the values of a checkpoint are texts and numbers."""
    return {"json": json.dumps(widths.as_json(), sort_keys=True)}


def cut_checkpoint(setup: RunSetup, checkpoint: Checkpoint) -> tuple[Checkpoint, Cut]:
    """Return the checkpoint of the smaller network, and the cut.

    `setup` has the hooks of the widths before the cut. Raises ConfigError if a tensor of the
    state cannot follow.
    """
    reshaping = setup.hooks.reshaping
    assert reshaping is not None
    widths = read_widths(checkpoint.states, str(checkpoint.path))
    config = setup.config
    model = build_unfilled_model(config, ModelShape.from_spec(setup.data.spec), setup.hooks)
    ModelState(model).load_state_dict(checkpoint.states["model"])
    inputs = ReshapeInputs(
        model,
        widths,
        reshaping.done,
        partial(_iterate_samples, setup),
        partial(_sum_loss, setup),
        checkpoint.states,
    )
    cut = reshaping.find_cut(inputs)
    cut = replace(cut, widths=replace(cut.widths, cuts=reshaping.done + 1))
    kept = {**cut.kept, **_find_aliases(model, cut)}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        states = {
            name: drop_state(cut_state(state, kept, shapes), cut.dropped)
            for name, state in checkpoint.states.items()
            if name not in LAYOUT_STATES
        }
    except ValueError as error:
        raise ConfigError(f"the network cannot be cut, because {error}", "use optim=sgd or optim=adamw") from None
    if unknown := set(cut.replaced) - set(states["model"]):
        raise CheckpointError(f"the cut replaces {min(unknown)}, which is not saved")
    states["model"] = {**states["model"], **cut.replaced}
    for name, state in setup.hooks.state.items():
        if isinstance(state, CutState):
            states[name] = state.make_state_after_cut(checkpoint.states[name], checkpoint.step)
    states[STATE] = encode_state(cut.widths)
    # The best state so far is of a larger network, which the run no longer makes.
    states["evaluator"] = {**states["evaluator"], "best": None, "best_step": 0, "evaluated_step": -1}
    return replace(checkpoint, states=states), cut


def _find_aliases(model: nn.Module, cut: Cut) -> dict[Any, Any]:
    """Return the kept indices of tensors that modules share, under their other names."""
    tensors = model.state_dict()
    names: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(get_storage_key(tensor), []).append(name)
    aliases = {}
    for (name, axis), indices in cut.kept.items():
        if name in tensors:
            aliases.update({(other, axis): indices for other in names[get_storage_key(tensors[name])]})
    return aliases


def _iterate_samples(setup: RunSetup, examples: int, size: int) -> Iterable[Batch]:
    """Yield training examples that the seed chooses, unaugmented, on the CPU."""
    config = replace(setup.config, eval=replace(setup.config.eval, batch_size=size))
    index = Key(config.seed, "pruning").permutation(setup.data.train)[:examples]
    for batch in make_unaugmented_batches(
        config, setup.data.dataset, "cpu", False, setup.data.dataset.train, index, World()
    ):
        yield replace(batch, inputs=batch.inputs.clone())


def _sum_loss(setup: RunSetup, outputs: Tensor, batch: Batch) -> torch.Tensor:
    return setup.config.task.loss_sum(outputs, batch)
