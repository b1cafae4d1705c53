"""An optimizer from the user's file: it gets the parameter groups, and wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_code import write_mine

from dnntrain.choices.optim.custom import CustomOptimizer
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError
from dnntrain.protocols import LayoutRequirement


def test_the_class_gets_groups_rate_and_arguments(tmp_path: Path) -> None:
    choice = CustomOptimizer(
        file=str(write_mine(tmp_path)), lr=0.5, args=Arguments({"momentum": 0.0}), param_groups=("bias lr_scale=2",)
    )
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    (optimizer,) = choice.build(model)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 1.0}
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before - 0.5)


def test_only_elementwise_steps_support_shards() -> None:
    assert CustomOptimizer().needs == {LayoutRequirement.WHOLE_PARAMETER}
    assert not CustomOptimizer(elementwise=True).needs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": None}, "optim=custom needs optim.file"),
        ({"name": "SignSGDD"}, "did you mean 'SignSGD'?"),
        ({"args": Arguments({"beta": 1})}, "optim.args.beta: SignSGD does not have this argument"),
        ({"weight_decay": 0.1}, "optim.weight_decay=0.1 has no effect"),
        ({"name": "hinge"}, "cannot be built: TypeError"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CustomOptimizer(**{"file": str(write_mine(tmp_path)), **options}).build(torch.nn.Linear(2, 1))  # type: ignore[arg-type]
    assert message in str(caught.value)
