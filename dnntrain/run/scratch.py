"""A trainer that is built from a configuration, trained for some steps, and thrown away: no file, evaluation or checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dnntrain.checkpoint.checkpoint import Digests
from dnntrain.run.session import Session
from dnntrain.training.loop import run
from dnntrain.training.trainer import build
from dnntrain.utils.epochs import Timetable
from dnntrain.utils.units import Duration


def trained_rows(session: Session, steps: int, row: Callable[[Mapping[str, Any]], None]) -> str | None:
    """Trains `steps` steps of the session's run, with a row of metrics for each, and returns the reason where it ended before."""
    config, one = session.config, Duration(1, "step")
    config = replace(
        config,
        monitor={},
        train=replace(config.train, duration=Duration(steps, "step")),
        log=replace(config.log, every=one),
    )
    plan = replace(
        session.plan,
        total_steps=steps,
        duration=f"{steps}step",
        timetable=Timetable.constant(session.plan.data.train, session.plan.batch_size),
    )
    data = replace(session.data, val=session.data.val[:0])
    trainer = build(
        config, plan, data, None, session.world, session.device, Digests("", ""), [row], warn=lambda text: None
    )
    progress = trainer.loop.progress
    try:
        progress.start()
        trainer.metrics.start_interval()
        run(trainer.loop)
    finally:
        trainer.metrics.close()
        trainer.pipeline.close()
    return progress.stop_reason
