"""Names and properties of models that are known from source are those of the built models."""

from __future__ import annotations

import pytest

from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.nn.model_names import check_model_name, list_model_names

#: Models that need arguments, or weights of another package.
OTHERS = ("custom", "timm", "torchvision")


def test_an_unknown_name_is_rejected_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        check_model_name("torchvision", "resnet19", "model.name=resnet19")
    with pytest.raises(ConfigError, match="needs the package no_such_package"):
        check_model_name("no_such_package", "x", "model.name=x")
    check_model_name("timm", "vit_tiny_patch16_224.augreg_in21k", "model.name=…")
    check_model_name("timm", "tv_resnet50", "model.name=…")


@pytest.mark.slow
def test_the_source_names_the_models_that_the_packages_list() -> None:
    import timm
    import torchvision

    assert list_model_names("timm") == sorted(timm.list_models(include_tags=False))
    models = torchvision.models
    names = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    assert list_model_names("torchvision") == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in load_registry().list_names("model") if name not in OTHERS])
def test_a_model_has_the_layers_that_its_class_variables_state(name: str) -> None:
    from torch import nn

    from dnntrain.config.build_choice import decode_choice
    from dnntrain.nn.partition import find_blocks
    from dnntrain.nn.shape import ModelShape

    choice = decode_choice("model", name, {})
    model = choice.build(ModelShape(10, 3, 32, 32))
    assert choice.has_convolutions == any(isinstance(module, nn.Conv2d) for module in model.modules())
    assert choice.has_blocks == bool(find_blocks(model))
