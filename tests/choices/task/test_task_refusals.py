"""A method states what it needs of a task, and is refused with the reason if the task does not have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from dnntrain.choices.task.classification import Classification
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.planning.checks.combinations import find_refusals
from dnntrain.protocols import TaskFeature
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Featureless(Classification):
    """A task that methods may need nothing of."""

    features: ClassVar[frozenset[TaskFeature]] = frozenset()


def find_reasons(config: RunConfig) -> list[str]:
    """Return the reasons alone why a machine without accelerator refuses the configuration."""
    return [refusal.reason for refusal in find_refusals(config, Hardware(), 1)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "name", "need"),
    [
        (["reg=[label_smoothing]"], "reg.label_smoothing", "targets that can be smoothed"),
        (["distill=kd", "distill.teacher=runs/x"], "distill=kd", "logits over classes, of examples, pixels or tokens"),
        (["distill=dkd", "distill.teacher=runs/x"], "distill=dkd", "outputs that are logits over classes"),
        (["distill=dist", "distill.teacher=runs/x"], "distill=dist", "outputs that are logits over classes"),
        (["distill=mean_teacher"], "distill=mean_teacher", "outputs that are logits over classes"),
    ],
)
def test_a_need_that_the_task_does_not_meet_is_refused(words: list[str], name: str, need: str) -> None:
    config = decode_config(compose(words))
    assert find_refusals(config, Hardware(), 1) == []
    reasons = find_reasons(replace(config, task=Featureless()))
    assert any(reason.startswith(f"{name} needs {need}, which task=classification does not have") for reason in reasons)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_targets_that_cannot_be_mixed_are_refused(method: str) -> None:
    config = decode_config(compose([f"augment=[{method}]"]))
    reasons = find_reasons(replace(config, task=Featureless()))
    assert any("targets that can be mixed" in reason for reason in reasons)
