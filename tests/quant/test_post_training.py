"""Quantisation after training leaves training alone, and is refused where the machine cannot compute it."""

from __future__ import annotations

import pytest
from stand_ins import context

from dnntrain import rules
from dnntrain.cli import main
from dnntrain.protocols import Parts
from dnntrain.quant.int8_dynamic import Int8Dynamic
from dnntrain.quant.int8_static import Int8Static
from dnntrain.quant.int8_weight_only import Int8WeightOnly


@pytest.mark.parametrize("choice", [Int8Static(), Int8Dynamic(), Int8WeightOnly()])
def test_it_fills_no_slot_of_training(choice: Int8Static) -> None:
    assert choice.build(context()) == Parts()


def test_a_backend_that_is_not_installed_is_refused_at_plan_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    assert main(["plan", "quant=int8_static", "quant.backend=onnxruntime"]) == 2
    assert "quant.backend=inductor" in capsys.readouterr().err
