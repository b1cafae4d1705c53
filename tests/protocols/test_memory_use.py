"""The plan counts what methods and the layout hold besides the model."""

from __future__ import annotations

import pytest

from dnntrain.choices.parallel.ddp import Ddp
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.run.session import open_session
from dnntrain.utils.world import World


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "copies"), [((), 0), (("average=[ema]",), 1), (("average=[swa]", "average.swa.every=1step"), 1)]
)
def test_each_average_is_one_copy_of_the_weights(words: tuple[str, ...], copies: int) -> None:
    line = ("model=mlp", "model.hidden=[8]", "precision=fp32", "train.max_examples=64", "train.duration=4step", *words)
    memory = open_session(decode_config(compose(line)), World()).plan.memory
    assert memory.averages == copies * memory.weights


def test_powersgd_keeps_one_copy_of_the_gradients() -> None:
    assert [Ddp(grad_compression=form).gradient_copies for form in ("none", "bf16", "powersgd")] == [0, 0, 1]
