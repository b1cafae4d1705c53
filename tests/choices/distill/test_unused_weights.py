"""A teacher whose every weight is 0 is refused: it would be run for nothing."""

from __future__ import annotations

import pytest
from students import of_digits

from dnntrain.choices.distill._options import check_weights
from dnntrain.choices.distill.attention_transfer import AttentionTransfer
from dnntrain.choices.distill.dist import Dist
from dnntrain.choices.distill.dkd import Dkd
from dnntrain.choices.distill.fitnet import Fitnet
from dnntrain.choices.distill.kd import Kd
from dnntrain.choices.distill.mean_teacher import MeanTeacher
from dnntrain.choices.distill.rkd import Rkd
from dnntrain.errors import ConfigError
from dnntrain.protocols import Method


@pytest.mark.parametrize(
    ("method", "zeros"),
    [
        (Kd(teacher="x", loss_weight=0), "distill.loss_weight=0"),
        (AttentionTransfer(teacher="x", layers="a", loss_weight=0), "distill.loss_weight=0"),
        (Fitnet(teacher="x", layers="a", loss_weight=0), "distill.loss_weight=0"),
        (MeanTeacher(loss_weight=0), "distill.loss_weight=0"),
        (Dkd(teacher="x", alpha=0, beta=0), "distill.alpha=0 and distill.beta=0"),
        (Dist(teacher="x", beta=0, gamma=0), "distill.beta=0 and distill.gamma=0"),
        (
            Rkd(teacher="x", distance_loss_weight=0, angle_loss_weight=0),
            "distill.distance_loss_weight=0 and distill.angle_loss_weight=0",
        ),
    ],
)
def test_it_is_refused_with_what_trains_alone(method: Method, zeros: str) -> None:
    with pytest.raises(ConfigError, match=f"{zeros}: (.|\\n)*use distill=none, or distill"):
        method.build(of_digits())


def test_one_of_two_weights_may_be_0() -> None:
    check_weights(alpha=0.0, beta=2.0)
