"""What every model keeps: output shape, published size, first weights from the seed, a step of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dnntrain.choices.model.airbench import Airbench
from dnntrain.choices.model.mlp import Mlp
from dnntrain.choices.model.mobilenet_v3_small import MobilenetV3Small
from dnntrain.choices.model.resnet18 import Resnet18
from dnntrain.choices.model.resnet_cifar import ResnetCifar
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.choices.model.vit_tiny import VitTiny, choose_patch
from dnntrain.choices.model.wide_resnet import WideResnet
from dnntrain.errors import ConfigError
from dnntrain.nn.cost import build_with_zero_weights, count_parameters
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape, find_head_parameters

DIGITS = ModelShape(10, 1, 8, 8)
MNIST = ModelShape(10, 1, 28, 28)
CIFAR = ModelShape(10, 3, 32, 32)
IMAGENET = ModelShape(1000, 3, 224, 224)

CHOICES: list[Any] = [
    SmallCnn(dropout=0.1),
    Mlp(dropout=0.1),
    ResnetCifar(depth=8),
    ResnetCifar(depth=8, shortcut="project", zero_residual=True),
    WideResnet(depth=10, dropout=0.1),
    Resnet18(width=8),
    MobilenetV3Small(width_factor=0.5),
    VitTiny(depth=2, dropout=0.1),
    Airbench(8, (8, 16, 16)),
]


def name(choice: Any) -> str:
    return type(choice).__name__


@pytest.mark.sampled
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR], ids=["digits", "mnist", "cifar"])
@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_images_of_every_small_data_set_give_one_row_of_logits_each(choice: Any, shape: ModelShape) -> None:
    model = choice.build(shape).eval()
    logits = model(torch.rand(3, shape.channels, shape.height, shape.width))
    assert logits.shape == (3, 10)


@pytest.mark.sampled
@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_a_step_of_training_lowers_the_loss_of_its_batch(choice: Any) -> None:
    torch.manual_seed(0)
    model = choice.build(MNIST)
    initialize_weights(model, 0)
    images, targets = torch.rand(16, 1, 28, 28), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return functional.cross_entropy(model(images), targets)

    before = loss()
    assert before.item() == pytest.approx(math.log(10), abs=3)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert loss() < before


@pytest.mark.parametrize(
    ("choice", "shape", "parameters"),
    [
        (SmallCnn(), MNIST, 1_199_882),  # PyTorch's MNIST example
        (SmallCnn(), DIGITS, 320 + 18_496 + (64 * 2 * 2 + 1) * 128 + 1_290),
        (Mlp(), MNIST, 785 * 64 + 650),
        (ResnetCifar(depth=20), CIFAR, 269_722),  # 0.27 M (He et al., table 6)
        (ResnetCifar(depth=56), CIFAR, 853_018),  # 0.85 M
        (ResnetCifar(depth=20, shortcut="project"), CIFAR, 272_474),
        (WideResnet(16, 2), CIFAR, 691_674),  # 0.7 M
        (WideResnet(28, 10), CIFAR, 36_479_194),  # 36.5 M (Zagoruyko & Komodakis, table 4)
        (Resnet18(), CIFAR, 11_173_962),
        (Resnet18(small_stem=False), IMAGENET, 11_689_512),  # torchvision's resnet18
        (MobilenetV3Small(stem_stride=2), IMAGENET, 2_542_856),  # torchvision's mobilenet_v3_small
        (Airbench(24, (64, 256, 256)), CIFAR, 1_973_152 + 10),  # 1.97 M (Jordan, section 3), and our bias
        (VitTiny(), IMAGENET, 5_717_416),  # timm's vit_tiny_patch16_224
    ],
)
def test_parameter_counts_are_the_published_ones(choice: Any, shape: ModelShape, parameters: int) -> None:
    assert count_parameters(build_with_zero_weights(lambda: choice.build(shape))) == parameters


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_models_are_built_on_the_meta_device_too(choice: Any) -> None:
    with torch.device("meta"):
        model = choice.build(CIFAR)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert model.state_dict().keys() == choice.build(CIFAR).state_dict().keys()


@pytest.mark.sampled
@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_first_weights_follow_from_the_seed_alone(choice: Any) -> None:
    def weights(seed: int, global_seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(global_seed)
        model = choice.build(CIFAR)
        initialize_weights(model, seed)
        return model.state_dict()

    one, same, other = weights(0, 1), weights(0, 2), weights(1, 1)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert all(torch.isfinite(value.float()).all() for value in one.values())


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_the_head_is_found(choice: Any) -> None:
    model = choice.build(CIFAR)
    weight, bias = (dict(model.named_parameters())[key] for key in find_head_parameters(model))
    assert (len(weight), tuple(bias.shape)) == (10, (10,))


@pytest.mark.parametrize(
    ("choice", "shape", "told"),
    [
        (SmallCnn(), ModelShape(10, 1, 5, 28), r"small_cnn needs images of at least 6x6 pixels; these have 5x28"),
        (ResnetCifar(), ModelShape(10, 1, 3, 3), "at least 4x4"),
        (WideResnet(), ModelShape(10, 1, 3, 3), "at least 4x4"),
        (Resnet18(), ModelShape(10, 3, 7, 7), "at least 8x8"),
        (Resnet18(small_stem=False), CIFAR, None),
        (Resnet18(small_stem=False), ModelShape(10, 3, 28, 28), "at least 32x32"),
        (MobilenetV3Small(), ModelShape(10, 3, 7, 7), "at least 8x8"),
        (ResnetCifar(depth=21), CIFAR, r"depth=21 is not 6n \+ 2\n  use model.depth=20 or 26"),
        (ResnetCifar(depth=1), CIFAR, "use model.depth=8 or 14"),
        (WideResnet(depth=20), CIFAR, r"depth=20 is not 6n \+ 4\n  use model.depth=16 or 22"),
        (
            VitTiny(patch_size=5),
            CIFAR,
            r"patch_size=5 does not divide images of 32x32 pixels\n  use model.patch_size=4",
        ),
        (VitTiny(num_heads=5), CIFAR, "dim=192 is not a multiple of model.num_heads=5"),
        (VitTiny(), ModelShape(10, 3, 37, 41), "1517 patches"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_number_and_the_fix(
    choice: Any, shape: ModelShape, told: str | None
) -> None:
    if told is None:
        assert choice.build(shape) is not None
        return
    with pytest.raises(ConfigError, match=told):
        choice.build(shape)


def test_the_smallest_images_that_are_promised_do_train() -> None:
    for choice, size in ((SmallCnn(), 6), (ResnetCifar(8), 4), (WideResnet(10), 4), (Resnet18(8), 8), (Mlp(), 1)):
        model = choice.build(ModelShape(3, 1, size, size))  # type: ignore[attr-defined]
        assert model(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_small_cnn_is_the_function_of_the_textbook() -> None:
    model: Any = SmallCnn().build(MNIST)
    textbook = nn.Sequential(
        model.conv1,
        nn.ReLU(),
        model.conv2,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        model.hidden,
        nn.ReLU(),
        model.head,
    )
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(model(images), textbook(images), rtol=0, atol=0)


def test_a_perceptron_without_hidden_layers_is_logistic_regression() -> None:
    model: Any = Mlp(hidden=()).build(DIGITS)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(images), model.head(images.flatten(1)))


def test_dropout_acts_in_training_only() -> None:
    model = SmallCnn(dropout=0.5).build(DIGITS)
    images = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_padded_shortcuts_take_every_second_pixel_and_add_zero_channels() -> None:
    from dnntrain.choices.model._basic_resnet import PaddedShortcut

    images = torch.rand(1, 2, 4, 4)
    shortened = PaddedShortcut(2, 4, 2)(images)
    assert torch.equal(shortened[:, 1:3], images[:, :, ::2, ::2])
    assert not shortened[:, [0, 3]].any()


def test_zero_residual_makes_each_block_its_shortcut_at_first() -> None:
    model: Any = ResnetCifar(depth=8, zero_residual=True).build(CIFAR)
    initialize_weights(model, 0)
    features = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(model.stages[0][0](features), features)


def test_resnet18_equals_torchvisions_with_the_same_weights() -> None:
    import torchvision

    ours, theirs = Resnet18(small_stem=False).build(IMAGENET), torchvision.models.resnet18()
    assert [tensor.shape for tensor in ours.parameters()] == [tensor.shape for tensor in theirs.parameters()]
    values = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    for mine, other in values:
        mine.copy_(other)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("height", "width", "patch"),
    [(8, 8, 1), (28, 28, 4), (32, 32, 4), (64, 64, 8), (224, 224, 16), (4, 4, 1), (64, 32, 4)],
)
def test_patches_are_chosen_from_the_size_of_the_images(height: int, width: int, patch: int) -> None:
    assert choose_patch(height, width) == patch
