"""Train a throwaway trainer for some steps, without files, evaluation or checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.protocols import Hooks, LateCollectives
from dnntrain.run.session import Session
from dnntrain.training.components import build_hooks, make_build_context
from dnntrain.training.loop import iterate_steps
from dnntrain.training.setup import RunSetup
from dnntrain.training.trainer import Trainer, build_trainer
from dnntrain.training.trainer_parts import TrainerOutputs
from dnntrain.utils.units import Duration

#: A scratch trainer is built for so many steps, or for those of the run if they are more: a schedule or method that
#: fits the run fits it too. It never makes them all.
UNREACHED_STEPS = 1_000_000

#: Receives the name of a method and its hooks, and returns the hooks to use.
ChangeHooks = Callable[[str, Hooks], Hooks]


def run_scratch_training(session: Session, steps: int, on_row: Callable[[Mapping[str, Any]], None]) -> str | None:
    """Train the first `steps` steps of the session's run, with a row of metrics for each.

    Returns the reason if it ended before.
    """
    trainer = build_scratch_trainer(session, on_row, steps)
    progress = trainer.loop.progress
    try:
        trainer.start_session()
        for _ in islice(iterate_steps(trainer.loop), steps):
            pass
    finally:
        trainer.close()
    return progress.stop_reason


def build_scratch_trainer(
    session: Session,
    on_row: Callable[[Mapping[str, Any]], None],
    first_rows: int = 0,
    keeps_callbacks: bool = False,
    change_hooks: ChangeHooks = lambda name, hooks: hooks,
) -> Trainer:
    """Build a trainer of the first steps of the session's run, with rows of metrics as often as the run.

    It has a row after each of the first `first_rows` steps, too; a row waits for the device. With
    `keeps_callbacks` it has the monitors of the run. `change_hooks` is as in `build_hooks`.
    """
    config, every = session.config, session.config.log.every
    steps = max(UNREACHED_STEPS, session.plan.total_steps or 0)
    if every.unit != "s":
        timetable, total_steps = session.plan.timetable, session.plan.total_steps or 0
        every = Duration(max(1, timetable.count_steps(every, total_steps)), "step")
    config = replace(
        config,
        monitor=config.monitor if keeps_callbacks else {},
        train=replace(config.train, duration=Duration(steps, "step")),
        log=replace(config.log, every=every),
    )
    plan = replace(
        session.plan,
        total_steps=steps,
        duration=f"{steps}step",
        timetable=replace(session.plan.timetable, changes=((0, session.plan.batch_size),), taken=(), num_past=0),
    )
    data = replace(session.data, val=session.data.val[:0])
    # The length differs, so the methods are built again.
    collectives = LateCollectives(plan.degrees.shard)
    context = make_build_context(config, plan, data, session.device, session.world, collectives)
    hooks = build_hooks(config, context, change_hooks)
    setup = RunSetup(config, plan, data, hooks, collectives, session.world, session.device)
    trainer = build_trainer(setup, Digests("", ""), TrainerOutputs(listeners=[on_row]))
    cadence = trainer.loop.cadence.with_first_steps(trainer.metrics.write_train_row, first_rows)
    return replace(trainer, loop=replace(trainer.loop, cadence=cadence))
