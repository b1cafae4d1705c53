"""Start a run, or a part of it, with the shape that its checkpoint has, and cut it if that is due."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.distributed.parallel_dims import partition_costs
from dnntrain.nn.channels_last import overflows_in_channels_last
from dnntrain.nn.cost import count_section_flops
from dnntrain.nn.shape import ModelShape
from dnntrain.run.preflight import check_pipeline_stages
from dnntrain.run.session import Session, drop_init_weights
from dnntrain.run.start import RunStart
from dnntrain.training.reshape import ReshapeRequest, add_widths, cut_checkpoint, get_widths, read_widths
from dnntrain.training.setup import build_unfilled_model

if TYPE_CHECKING:
    from dnntrain.run.rank_group import RankGroup
    from dnntrain.run.runner import SingleRank
    from dnntrain.training.trainer import Trainer


def restore_shape(
    session: Session, start: RunStart, ranks: SingleRank | RankGroup, say: Callable[[str], None]
) -> tuple[Session, RunStart, Mapping[str, Any] | None]:
    """Return the session with the network of the checkpoint, and the notes of a cut that was due.

    All ranks cut the same checkpoint, and compare their results.
    """
    if start.checkpoint is None:
        return _fit_plan(session), start, None
    widths = read_widths(start.checkpoint.states, str(start.checkpoint.path))
    # The checkpoint has the weights; the file of initial ones is of the widths before.
    session = replace(session, config=drop_init_weights(session.config), hooks=add_widths(session.hooks, widths))
    reshaping = session.hooks.reshaping
    if reshaping is None or not reshaping.is_due(start.checkpoint.step):
        return _fit_plan(session), start, None
    checkpoint = start.checkpoint
    say(f"cutting the network after step {checkpoint.step}")
    checkpoint, cut = ranks.run_on_all_ranks(f"cut {reshaping.done}", lambda: cut_checkpoint(session.setup, checkpoint))
    digest = compute_bytes_digest(json.dumps(cut.widths.as_json(), sort_keys=True).encode())
    ranks.agree_on_cut(reshaping.done, digest[:12])
    session = _fit_plan(replace(session, hooks=add_widths(session.hooks, cut.widths)))
    return session, replace(start, checkpoint=checkpoint), {"event": "pruned", **cut.notes}


def _fit_plan(session: Session) -> Session:
    """Return the session with a plan for the widths of the network.

    The channels-last format is left out if a CPU kernel writes out of bounds with it. Pipeline
    stages are divided again, by the cost of the smaller sections. Raises ConfigError if a stage has
    no weights that are trained.
    """
    plan, shape = session.plan, ModelShape.from_spec(session.data.spec)
    if get_widths(session.hooks).is_whole:
        return session
    model = build_unfilled_model(session.config, shape, session.hooks)
    if plan.channels_last and session.setup.device_type == "cpu" and overflows_in_channels_last(model):
        plan = replace(plan, channels_last=False)
    if plan.stage_bounds:
        bounds = partition_costs(count_section_flops(model, shape), len(plan.stage_bounds) - 1)
        plan = replace(plan, stage_bounds=tuple(bounds))
        check_pipeline_stages(session.config, plan, session.data, session.hooks)
    return replace(session, plan=plan)


def reload_start(start: RunStart, folder: Path, request: ReshapeRequest) -> RunStart:
    """Return the start from the checkpoint that the run has just saved."""
    return replace(start, checkpoint=read_checkpoint(folder / "checkpoints" / f"step-{request.step}"))


def begin_with_cut(trainer: Trainer, notes: Mapping[str, Any] | None) -> None:
    """Record a cut: its row, and a checkpoint of the smaller network in place of all earlier ones.

    Raises ReshapeRequest if the next cut is due at once, as before the first step, and its state is saved.
    """
    step, reshaping = trainer.loop.progress.step, trainer.hooks.reshaping
    if notes is not None:
        trainer.metrics.write_row("event", step, dict(notes))
        trainer.checkpointer.replace_all(step)
    if reshaping is not None and reshaping.is_due(step) and trainer.checkpointer.save_for_cut(step):
        raise ReshapeRequest(step)
