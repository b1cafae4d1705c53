"""Quantisation after training leaves training alone, and is refused where the machine cannot compute it."""

from __future__ import annotations

import pytest
from stand_ins import context

from dnntrain.cli import main
from dnntrain.protocols import Parts
from dnntrain.quant.float8 import Float8
from dnntrain.quant.int8_dynamic import Int8Dynamic
from dnntrain.quant.int8_static import Int8Static
from dnntrain.quant.int8_weight_only import Int8WeightOnly


@pytest.mark.parametrize("choice", [Int8Static(), Int8Dynamic(), Int8WeightOnly(), Float8()])
def test_it_fills_no_slot_of_training(choice: Int8Static) -> None:
    assert choice.build(context()) == Parts()


def test_float8_without_a_gpu_that_has_it_is_refused_at_plan_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quant=float8", "device=cpu"]) == 2
    assert "use quant=int8_static" in capsys.readouterr().err
