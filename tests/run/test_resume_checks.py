"""What a person is told of the changes between a saved run and its continuation."""

from __future__ import annotations

from typing import Any

import pytest

from dnntrain.config.compose import compose
from dnntrain.run.resume_checks import find_changes, find_refusals


def composed(*words: str) -> dict[str, Any]:
    return compose(words, quiet=True)


@pytest.mark.slow
def test_another_choice_of_a_group_is_one_change_whatever_knobs_it_has() -> None:
    saved, new = composed("distill=kd", "distill.teacher=there"), composed()
    assert [str(change) for change in find_changes(saved, new)] == ["distill: kd → none"]
    assert [str(change) for change in find_changes(composed("parallel=ddp"), composed())] == ["parallel: ddp → single"]


def test_a_knob_of_the_same_choice_is_a_change_of_its_own() -> None:
    saved, new = composed("distill=kd", "distill.teacher=there"), composed("distill=kd", "distill.teacher=[a,b]")
    assert {change.key for change in find_changes(saved, new)} == {"distill.teacher"}


def test_a_method_that_is_left_out_of_a_list_is_one_change_and_knobs_of_the_others_are_told() -> None:
    saved, new = (
        composed("augment=[crop,flip,mixup]", "average=[ema]"),
        composed("augment=[crop,flip]", "augment.flip.probability=0.25", "average=[ema]", "average.ema.decay=0.9"),
    )
    assert {str(change) for change in find_changes(saved, new)} == {
        "augment: [crop,flip,mixup] → [crop,flip]",
        "augment.flip.probability: (unset) → 0.25",
        "average.ema.decay: 0.999 → 0.9",
    }


@pytest.mark.slow
def test_a_group_is_refused_where_one_of_its_knobs_is_and_the_way_out_is_told_once() -> None:
    saved = composed("distill=kd", "distill.teacher=there")
    assert find_refusals(saved, composed("parallel=ddp", "distill=kd", "distill.teacher=there")) == []
    mistakes = find_refusals(saved, composed("optim=sgd"))
    assert [mistake.splitlines()[0] for mistake in mistakes] == ["distill: kd → none", "optim: adamw → sgd"]
    assert "".join(mistakes).count("another run_dir") == 1
