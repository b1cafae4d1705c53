"""Train two runs again, step beside step, until their numbers part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.config.digest import compute_digest
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.rng_replay import RngReplay
from dnntrain.protocols import Batch, StepBatch, TrainerHandles
from dnntrain.run.session import drop_init_weights, open_session
from dnntrain.training.loop import Batches, iterate_steps
from dnntrain.training.recovery import RollbackRequest
from dnntrain.training.restore import restore_trainer
from dnntrain.training.scheduled_values import get_learning_rate
from dnntrain.training.trainer import Trainer, build_trainer
from dnntrain.training.trainer_parts import TrainerOutputs
from dnntrain.utils.hardware import use_threads
from dnntrain.utils.world import World


@dataclass(frozen=True)
class TensorDifference:
    """A tensor of the model that differs; a difference of None: the shapes differ, or one run lacks it."""

    name: str
    largest_difference: float | None


@dataclass(frozen=True)
class Parting:
    """The first step whose numbers differ.

    step            number of steps done; 0: the initial weights differ
    batch           difference between the batches of the step: empty, "the examples", "the inputs"
                    or "the targets"
    learning_rates  of A and of B in the step, if they differ
    tensors         the tensors of the model that differ, in the model's order
    total           number of tensors of the model
    """

    step: int
    batch: str = ""
    learning_rates: tuple[float, float] | None = None
    tensors: tuple[TensorDifference, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Replay:
    """The result of training again from step `start` to step `end`; `parting` is None if nothing differed."""

    start: int
    end: int
    parting: Parting | None


@dataclass
class _Recorder:
    """Pass batches on, and keep those of the last step."""

    inner: Batches
    last: Sequence[Batch] = ()

    def take(self, step: int) -> StepBatch:
        batch = self.inner.take(step)
        self.last = batch.micro_batches
        return batch


@dataclass
class _Side:
    """One of the two runs, ready to make its next step."""

    trainer: Trainer
    handles: TrainerHandles
    batches: _Recorder
    threads: int
    random_numbers: RngReplay
    steps: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = iterate_steps(replace(self.trainer.loop, batches=self.batches))
        self.trainer.start_session()

    def make_step(self) -> int | None:
        """Make one step and return the number of steps done; None if the run has ended.

        Both runs draw from the generators of this process and its device, so each gets its own state of them.
        """
        use_threads(self.threads)
        self.random_numbers.restore()
        try:
            return next(self.steps, None)
        except RollbackRequest:
            return None
        finally:
            self.random_numbers.save()


def replay_runs(configs: tuple[RunConfig, RunConfig], paths: tuple[Path, Path], start: int, end: int) -> Replay:
    """Train both runs from their checkpoints of step `start` (0: from the start) until they part, at most to `end`.

    Nothing is written. Raises the errors of a run that cannot be started.
    """
    first, second = (_open_side(config, path, start) for config, path in zip(configs, paths, strict=True))
    try:
        tensors, total = _compare_models(first, second)
        if tensors:
            return Replay(start, start, Parting(start, tensors=tensors, total=total))
        step = start
        while step < end:
            steps = first.make_step(), second.make_step()
            if steps[0] is None or steps[1] is None:
                break
            step = steps[0]
            parting = _compare_step(step, first, second)
            if parting is not None:
                return Replay(start, step, parting)
        return Replay(start, step, None)
    finally:
        for side in (first, second):
            side.trainer.close()


def _open_side(config: RunConfig, path: Path, start: int) -> _Side:
    """Build the trainer of a run, and restore its checkpoint of step `start`."""
    session = open_session(config if start == 0 else drop_init_weights(config), World())
    handles: list[TrainerHandles] = []
    hooks = replace(session.hooks, bindings=(*session.hooks.bindings, handles.append))
    digests = Digests(compute_digest(config.resolved), session.data.dataset.digest)
    trainer = build_trainer(replace(session, hooks=hooks).setup, digests, TrainerOutputs())
    if start:
        restore_trainer(trainer, read_checkpoint(path / "checkpoints" / f"step-{start}"), path, has_changed=False)
    recorder = _Recorder(trainer.loop.batches)
    return _Side(trainer, handles[0], recorder, session.plan.threads, RngReplay(session.device))


def _compare_step(step: int, first: _Side, second: _Side) -> Parting | None:
    """Return how the step that both runs have just made differs; None if it does not."""
    batch = _compare_batches(first.batches.last, second.batches.last)
    rates = get_learning_rate(first.handles.optimizers), get_learning_rate(second.handles.optimizers)
    tensors, total = _compare_models(first, second)
    if not batch and not tensors:
        return None
    return Parting(step, batch, None if rates[0] == rates[1] else rates, tensors, total)


def _compare_batches(first: Sequence[Batch], second: Sequence[Batch]) -> str:
    """Return what differs between the batches of a step; empty if nothing does."""
    if [batch.index.tolist() for batch in first] != [batch.index.tolist() for batch in second]:
        return "the examples"
    pairs = list(zip(first, second, strict=True))
    if any(_differs(one.inputs, other.inputs) for one, other in pairs):
        return "the inputs"
    return "the targets" if any(_differs(one.targets, other.targets) for one, other in pairs) else ""


def _compare_models(first: _Side, second: _Side) -> tuple[tuple[TensorDifference, ...], int]:
    """Return the tensors of both models that differ, and the number of all."""
    states = first.trainer.model.state_dict(), second.trainer.model.state_dict()
    names = list(dict.fromkeys((*states[0], *states[1])))
    differing = []
    for name in names:
        one, other = states[0].get(name), states[1].get(name)
        if one is None or other is None or one.shape != other.shape:
            differing.append(TensorDifference(name, None))
        elif _differs(one, other):
            differing.append(TensorDifference(name, float((one.cpu().double() - other.cpu().double()).abs().max())))
    return tuple(differing), len(names)


def _differs(first: Tensor, second: Tensor) -> bool:
    """Return True if a bit of two tensors may differ; NaN equals NaN."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return True
    if first.device != second.device:  # one run trained on the processor
        first, second = first.cpu(), second.cpu()
    equal = first == second
    if first.is_floating_point():
        equal |= first.isnan() & second.isnan()
    return not bool(equal.all())
