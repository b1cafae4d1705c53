"""Fake quantisation: the formula, its gradients, where it is put, and that it comes out again without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._basic_resnet import ResidualNetwork
from dnntrain.choices.model.wide_resnet import WideResnet
from dnntrain.choices.norm.sync import Sync
from dnntrain.choices.norm.weight_standardization import WeightStandardization
from dnntrain.choices.quant._fake_quant import (
    FakeConv2d,
    compute_activation_scale,
    compute_folding_factor,
    fake_quantize_activation,
    fake_quantize_weight,
    insert_fake_quantization,
    list_fake_modules,
    remove_fake_quantization,
)
from dnntrain.choices.quant._quant_points import find_quant_points
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape


def network() -> nn.Module:
    torch.manual_seed(0)
    model = ResidualNetwork(1, 4, widths=(4, 8), blocks=(1, 1), shortcut="project", small_stem=True, zero_residual=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
    return model


def on(model: nn.Module, name: str) -> None:
    for module in list_fake_modules(model):
        setattr(module, name, True)


def test_an_activation_is_rounded_to_256_values_of_which_0_is_one() -> None:
    values = torch.tensor([-3.0, -1.0, -0.301, 0.0, 0.012, 2.0, 9.0])
    smallest, largest = -1.0, 2.0
    scale = (largest - smallest) / 255
    zero = round(-smallest / scale)
    expected = [(min(max(round(value / scale) + zero, 0), 255) - zero) * scale for value in values.tolist()]
    found = fake_quantize_activation(values, torch.tensor([-smallest, largest]))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[3] == 0


def test_gradients_pass_within_the_range_alone() -> None:
    values = torch.tensor([-1.5, -0.5, 0.3, 1.9, 2.5], requires_grad=True)
    fake_quantize_activation(values, torch.tensor([1.0, 2.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_each_filter_is_rounded_to_255_values_of_its_own() -> None:
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 1, 30]).view(
        -1, 1, 1, 1
    )
    found = fake_quantize_weight(weight)
    for filter, rounded in zip(weight, found, strict=True):
        scale = filter.abs().max().item() / 127
        assert torch.allclose(rounded, torch.round(filter / scale).clamp(-127, 127) * scale, atol=1e-6 * scale * 127)


def test_the_folded_filter_is_what_is_rounded() -> None:
    norm = nn.BatchNorm2d(2).eval()
    norm.running_var = torch.tensor([4.0, 0.25])
    norm.weight.data = torch.tensor([0.5, -3.0])
    factor = compute_folding_factor(norm)
    assert factor.tolist() == pytest.approx([0.5 / (4 + 1e-5) ** 0.5, -3 / (0.25 + 1e-5) ** 0.5])
    weight = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    folded = weight * factor.view(-1, 1, 1, 1)
    assert torch.allclose(
        fake_quantize_weight(weight, factor) * factor.view(-1, 1, 1, 1), fake_quantize_weight(folded), atol=1e-6
    )


def test_a_normalisation_of_weight_zero_is_not_divided_by() -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.zeros_(norm.weight)
    assert compute_folding_factor(norm).tolist() == [1, 1, 1]


def test_a_model_that_only_observes_computes_what_it_did() -> None:
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    plain, model = network().train(), network().train()
    insert_fake_quantization(model, (1, 8, 8))
    on(model, "observes")
    assert torch.equal(model(images), plain(images))


def test_the_rounded_forward_pass_is_that_of_folded_rounded_convolutions() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.norm(self.conv(images))
            return found

    torch.manual_seed(0)
    model = Two().eval()
    nn.init.uniform_(model.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    nn.init.normal_(model.norm.running_mean)  # type: ignore[arg-type]
    flow = insert_fake_quantization(model, (1, 6, 6))
    assert flow.folded == {"conv": "norm"}
    images = torch.rand(4, 1, 6, 6)
    model.conv.input_reach.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[operator, union-attr]
    plain = model(images)
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(
        nn.Conv2d(1, 3, 3, bias=False).eval().requires_grad_(False), model.norm
    )
    factor = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()  # type: ignore[operator]
    folded = model.conv.weight * factor.view(-1, 1, 1, 1)
    assert torch.allclose(plain, functional.conv2d(images, folded, fused.bias), atol=1e-6)
    on(model, "quantizes")
    scale = folded.abs().amax((1, 2, 3), keepdim=True) / 127
    rounded = torch.round(images * 255) / 255
    expected = functional.conv2d(rounded, torch.round(folded / scale) * scale, fused.bias)
    assert torch.allclose(model(images), expected, atol=1e-5)


def test_operands_of_residual_additions_are_quantised() -> None:
    flow = find_quant_points(network(), (1, 8, 8))
    assert {name for name in flow.outputs if "stages" in name} == {
        "stages.0.0.drop_path",
        "stages.0.0.shortcut",
        "stages.1.0.drop_path",
        "stages.1.0.shortcut",
    }


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([nn.Flatten()], ()),
        ([], ()),
        ([nn.BatchNorm2d(4), nn.Flatten()], ()),
        ([nn.ReLU(), nn.Flatten()], ("2",)),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], ("2",)),
    ],
    ids=["flatten", "nothing", "norm", "relu", "average"],
)
def test_the_outputs_of_the_model_are_not_rounded(tail: list[nn.Module], expected: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 6), *tail)
    assert find_quant_points(model, (1, 8, 8)).outputs == expected


def test_torchvision_blocks_are_quantised_where_they_end() -> None:
    torchvision = pytest.importorskip("torchvision.models")
    flow = find_quant_points(torchvision.resnet18(num_classes=3), (3, 32, 32))
    assert {"layer1.0.bn2", "layer1.0", "layer2.0.downsample"} <= set(flow.outputs)
    assert "layer1.1.conv1" not in flow.inputs  # the block before it gives it rounded numbers
    assert len(flow.folded) == 20


def test_a_normalisation_before_an_activation_is_not_folded_into_what_other_layers_read() -> None:
    flow = find_quant_points(WideResnet(depth=10, width_factor=1).build(ModelShape(4, 1, 8, 8)), (1, 8, 8))
    assert "stages.0.0.conv2" not in flow.folded
    assert flow.folded["stages.0.0.conv1"] == "stages.0.0.norm2"


def test_names_and_saved_tensors_stay_and_it_all_comes_out_again() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [(name, type(module)) for name, module in model.named_modules()]
    insert_fake_quantization(model, (1, 8, 8))
    assert any(isinstance(module, FakeConv2d) for module in model.modules())
    assert list(model.state_dict()) == list(before)
    remove_fake_quantization(model)
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert list(dict(model.named_buffers())) == list(dict(network().named_buffers()))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_layer_with_a_forward_pass_of_its_own_is_refused() -> None:
    model = WeightStandardization().convert(network())
    with pytest.raises(ConfigError, match="StandardizedConv2d"):
        insert_fake_quantization(model, (1, 8, 8))


def test_other_kinds_of_batch_normalisation_are_folded_too() -> None:
    assert len(find_quant_points(Sync().convert(network()), (1, 8, 8)).folded) == len(
        find_quant_points(network(), (1, 8, 8)).folded
    )


def test_a_tensor_that_is_0_everywhere_stays_0() -> None:
    scale, zero = compute_activation_scale(torch.zeros(2))
    assert scale > 0
    assert zero == 0
    assert fake_quantize_activation(torch.zeros(3), torch.zeros(2)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (4, 6, 1, 1), (4, 6, 3, 3)])
@pytest.mark.parametrize("factor", [None, torch.tensor([0.5, 1.0, 2.0, 3.0])])
def test_the_gradient_of_a_filter_lies_in_memory_as_the_filter_does(
    shape: tuple[int, ...], factor: Tensor | None
) -> None:
    weight = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
    strides = []
    weight.register_hook(lambda gradient: strides.append(gradient.stride()))  # type: ignore[no-untyped-call]
    rounded = fake_quantize_weight(weight, factor)
    rounded.square().sum().backward()  # type: ignore[no-untyped-call]
    assert rounded.stride() == weight.stride()
    assert strides == [weight.stride()]
    # The rounding passes the gradient 2 q of the sum of squares on, and no factor is left of it.
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * rounded.detach())
