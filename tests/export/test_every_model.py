"""Every built-in model can be exported, for any number of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from short_runs import trained

from dnntrain.cli import main
from dnntrain.verbs.trained import load_trained

MODELS = (
    "mlp",
    "resnet20",
    "resnet18",
    "wrn_16_2",
    "mobilenet_v3_small",
    "vit_tiny",
    "airbench",
    "torchvision model.name=shufflenet_v2_x0_5",
)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_float_format_agrees_with_its_source(model: str, tmp_path: Path) -> None:
    words = [f"model={model.split()[0]}", *model.split()[1:], "data=synthetic", "data.image_size=32", "debug=fast"]
    trained(tmp_path / "run", *words)
    for name in ("safetensors", "pt2", "onnx"):
        assert main(["export", str(tmp_path / "run"), f"format={name}"]) == 0
        folder = tmp_path / "run" / "exports" / name
        assert json.loads((folder / "manifest.json").read_text())["details"]["parity"]["agreement"] == 1
        shape = load_trained(folder).input_shape
        assert load_trained(folder).logits(torch.zeros(3, *shape)).shape == (3, 10)
