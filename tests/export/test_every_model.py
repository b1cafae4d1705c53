"""Every built-in model can be exported, for any number of images, and gives the classes of its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from short_runs import trained

from dnntrain.cli.main import main
from dnntrain.config.registry import load_registry
from dnntrain.export.parity import MIN_AGREEMENT
from dnntrain.inference.load import load_model

MODELS = (
    "mlp",
    "small_cnn",
    "resnet_cifar model.depth=8",
    "resnet56",
    "resnet18",
    "wide_resnet model.depth=10 model.width_factor=1",
    "wrn_16_2",
    "mobilenet_v3_small",
    "vit_tiny",
    "airbench",
    "torchvision model.name=shufflenet_v2_x0_5",
    "timm model.name=test_resnet",
    "resnet20",
)

FORMATS = ("safetensors", "pt2", "onnx", "openvino")

#: Bases of presets that are among the others, a library's smallest, and one that takes a minute.
MORE = (
    "resnet18",
    "resnet_cifar model.depth=8",
    "wide_resnet model.depth=10 model.width_factor=1",
    "timm model.name=test_resnet",
)

#: Models whose machine code is compiled with every run of the tests; that of others takes up to a minute each.
QUICK = ("small_cnn",)


def marked(long: bool, model: str) -> object:
    return pytest.param(model, marks=pytest.mark.long if long else ())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a short run of a model, made on first use."""
    folder = tmp_path_factory.mktemp("models")

    def made(model: str) -> Path:
        path = folder / model.replace(" ", "_")
        if not path.is_dir():
            words = [f"model={model.split()[0]}", *model.split()[1:], "data=synthetic", "data.image_size=32"]
            trained(path, *words, "debug=fast")
        return path

    return made


def exported(run: Path, name: str) -> None:
    assert main(["export", str(run), f"--format={name}"]) == 0
    folder = run / "exports" / name
    assert json.loads((folder / "manifest.json").read_text())["details"]["parity"]["agreement"] >= MIN_AGREEMENT
    shape = load_model(folder, trust=True).spec.inputs.shape
    assert load_model(folder, trust=True).compute_outputs(torch.zeros(3, *shape)).shape == (3, 10)


def test_no_model_is_left_out() -> None:
    assert MIN_AGREEMENT == 0.999
    # In test_other_tasks.py, and hf in test_hf.py.
    other_tasks = {"gpt", "gpt_nano", "gpt_small", "hf", "unet"}
    assert {model.split()[0] for model in MODELS} == set(load_registry().list_names("model")) - {"custom"} - other_tasks


@pytest.mark.slow
@pytest.mark.parametrize("model", [marked(model in MORE, model) for model in MODELS])
def test_every_float_format_agrees_with_its_source(model: str, run: Callable[[str], Path]) -> None:
    for name in FORMATS:
        exported(run(model), name)


@pytest.mark.slow
@pytest.mark.parametrize("model", [marked(model not in QUICK, model) for model in MODELS])
def test_machine_code_agrees_with_its_source(model: str, run: Callable[[str], Path]) -> None:
    exported(run(model), "aoti")
