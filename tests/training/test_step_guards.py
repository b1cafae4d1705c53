"""What stands between gradients and update: a skipped step changes nothing; without guards nothing stands there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.choices.monitor.loss_spike import LossSpike, LossSpikeGuard
from dnntrain.choices.monitor.non_finite import NonFinite, NonFiniteGuard
from dnntrain.errors import CheckpointError
from dnntrain.protocols import Action, Alarm, Hooks, SingleProcess, StepLoss
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.metrics_writer import Timer
from dnntrain.training.optimizer_step import build_apply, run_plain_step
from dnntrain.training.progress import Progress
from dnntrain.training.recovery import Recovery, RollbackRequest, add_recovery
from dnntrain.training.step_guards import GuardRunner
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.units import Duration


def test_a_skipped_step_changes_neither_weights_nor_momentum_nor_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    events: list[Any] = []
    guarding = GuardRunner(
        [NonFiniteGuard(NonFinite())],
        Recovery(),
        step=lambda: len(events),
        write=lambda step, values: events.append((step, values["event"])),
        reduce=lambda tensor: tensor,
        collectives=SingleProcess(),
        optimizers=[optimizer],
        buffers=model.buffers(),
        device="cpu",
        has_scaler=False,
    )
    apply = build_apply([optimizer], list(model.parameters()), (), lambda numbers: None, None, guarding.should_apply)
    update = guarding.wrap_update(run_plain_step)

    def gradients(images: torch.Tensor, replay: bool = False) -> StepLoss:
        loss = model(images).sum()
        loss.backward()
        return StepLoss(loss.detach(), len(images), len(images))

    def state() -> list[torch.Tensor]:
        momentum = [value["momentum_buffer"] for value in optimizer.state.values()]
        return [tensor.clone() for tensor in (*model.state_dict().values(), *momentum)]

    assert update(partial(gradients, torch.randn(6, 3)), apply).examples == 6
    before = state()
    loss = update(partial(gradients, torch.full((6, 3), torch.inf)), apply)
    assert (float(loss.total), loss.examples) == (0.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert events == [(1, "skip")]
    update(partial(gradients, torch.randn(6, 3)), apply)
    assert not torch.equal(before[0], state()[0])


def test_a_run_goes_on_with_float16_after_a_step_that_it_went_back_from() -> None:
    model, scaler = nn.Linear(3, 1), torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alarm = Alarm("loss_spike", "too large", Action.ROLLBACK)
    faults = iter([RollbackRequest(1, alarm), None])

    def check(gradients: Any) -> bool:
        if (fault := next(faults)) is not None:
            raise fault
        return True

    apply = build_apply([optimizer], list(model.parameters()), (), lambda numbers: None, scaler, check)
    scaler.scale(model(torch.ones(2, 3)).sum()).backward()
    with pytest.raises(RollbackRequest):
        apply()
    optimizer.zero_grad()
    before = model.weight.detach().clone()
    scaler.scale(model(torch.ones(2, 3)).sum()).backward()
    apply()
    assert torch.allclose(model.weight, before - 0.1 * 2)


def test_the_rows_of_rollbacks_that_a_later_one_cuts_off_are_written_again() -> None:
    recovery = Recovery()
    assert recovery.add_rollback_row(60, {"reason": "first"}) == [{"reason": "first"}]
    assert recovery.add_rollback_row(20, {"reason": "second"}) == [{"reason": "first"}, {"reason": "second"}]
    assert recovery.add_rollback_row(40, {"reason": "third"}) == [{"reason": "third"}]
    resumed = Recovery()
    resumed.load_state_dict(recovery.state_dict())
    assert [row["reason"] for row in resumed.add_rollback_row(20, {"reason": "fourth"})] == [
        "first",
        "second",
        "third",
        "fourth",
    ]


def test_ranks_that_have_gone_back_to_different_steps_end_and_no_checkpoint_is_removed(tmp_path: Path) -> None:
    for step in (40, 50, 60):
        (tmp_path / f"step-{step}").mkdir()
    timer = Timer(Progress(Duration.parse("1ep"), EpochSchedule.constant(8, 4)))

    def saver(other: bytes) -> Checkpointer:
        ranks = RankExchange(0, lambda own: [own, other])
        return Checkpointer(tmp_path, {}, Digests("", ""), keep=3, timer=timer, warn=None, ranks=ranks)

    with pytest.raises(CheckpointError, match="different steps: 50, 40"):
        saver(b"40").rewind_to(50)
    assert len(list(tmp_path.glob("step-*"))) == 3
    saver(b"50").rewind_to(50)
    assert not (tmp_path / "step-60").exists()


def test_without_guards_a_run_has_neither_control_nor_state_of_recovery() -> None:
    assert add_recovery(Hooks()) == Hooks()
    guarded = add_recovery(Hooks(step_guards=(NonFiniteGuard(NonFinite()),)))
    assert len(guarded.scheduled_values) == 1
    assert set(guarded.state) == {"recovery"}


def test_a_step_in_which_nothing_counts_is_not_judged() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spikes, events = LossSpikeGuard(LossSpike()), []
    guarding = GuardRunner(
        [NonFiniteGuard(NonFinite()), spikes],
        Recovery(),
        step=lambda: 0,
        write=lambda step, values: events.append(values["event"]),
        reduce=lambda tensor: tensor,
        collectives=SingleProcess(),
        optimizers=[optimizer],
        buffers=(),
        device="cpu",
        has_scaler=False,
    )
    apply = build_apply([optimizer], list(model.parameters()), (), lambda numbers: None, None, guarding.should_apply)

    def gradients(factor: float, weight: int, replay: bool = False) -> StepLoss:
        loss = (model(torch.ones(2, 3)) * factor).sum()
        loss.backward()
        return StepLoss(loss.detach(), 2, torch.tensor(weight))

    guarding.wrap_update(run_plain_step)(partial(gradients, 0.0, 0), apply)
    assert (events, spikes.window.values) == ([], [])
    guarding.wrap_update(run_plain_step)(partial(gradients, 1.0, 2), apply)
    assert len(spikes.window.values) == 1
    guarding.wrap_update(run_plain_step)(partial(gradients, float("nan"), 0), apply)
    assert events == ["skip"]
