"""Ranges of quantized tensors: each rule against figures computed from all values, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.export.calibration import ValueHistogram, choose_range
from dnntrain.export.formats import ExportRequest, onnx_int8, pt2_int8
from dnntrain.export.formats.onnx import make_runner

#: Values as tensors of networks have them: both signs, outputs of a ReLU, few beyond 0, all equal, far outliers.
VALUES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda random: random.normal(0, 1, 20_000),
    "shifted": lambda random: random.normal(2, 1, 20_000),
    "relu": lambda random: np.maximum(random.normal(0, 1, 20_000), 0),
    "negative": lambda random: -random.exponential(3, 20_000),
    "swish": lambda random: (lambda x: x / (1 + np.exp(-x)))(random.normal(0, 2, 20_000)),
    "outliers": lambda random: np.append(random.laplace(0, 0.01, 20_000), [40.0, -25.0]),
    "tiny": lambda random: random.normal(0, 1e-20, 20_000),
}


def make_values(name: str) -> np.ndarray:
    return np.asarray(VALUES[name](np.random.default_rng(3)), dtype=np.float32)


def count(values: np.ndarray, parts: int = 7) -> ValueHistogram:
    histogram = ValueHistogram()
    for part in np.array_split(values, parts):
        histogram.add(torch.from_numpy(part))
    return histogram


def rounding_error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of rounding to 8 bits, value by value."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    rounded = (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale
    return float(np.mean((values.astype(np.float64) - rounded) ** 2))


def test_smallest_and_largest_are_exact() -> None:
    for name in VALUES:
        values = make_values(name)
        expected = (min(values.min(), 0), max(values.max(), 0))
        assert choose_range(count(values), "minmax", 99.0) == expected
        assert choose_range(count(values), "percentile", 100.0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("percentile", [80.0, 99.0, 99.9])
def test_the_percentage_of_values_is_kept(name: str, percentile: float) -> None:
    values = make_values(name)
    low, high = choose_range(count(values), "percentile", percentile)
    # A bin of the histogram is at most 1/2048 of the largest magnitude.
    width = np.abs(values).max() / 2048
    inside, around = (100 * np.mean((values >= low - by) & (values <= high + by)) for by in (-width, width))
    assert inside <= percentile <= around
    assert low <= 0 <= high


def test_half_of_the_rest_is_beyond_each_end_that_is_not_0() -> None:
    values = make_values("normal")
    assert choose_range(count(values), "percentile", 99.0) == pytest.approx(
        np.quantile(values, [0.005, 0.995]), abs=1 / 400
    )
    values = make_values("relu")
    assert choose_range(count(values), "percentile", 99.0) == pytest.approx((0, np.quantile(values, 0.99)), abs=1 / 400)
    # 2.3 % of the values are below 0, of which 10 % would be cut: the other end leaves out the rest.
    values = make_values("shifted")
    low, high = choose_range(count(values), "percentile", 80.0)
    assert low == 0
    assert np.mean((values < 0) | (values > high)) == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("name", VALUES)
def test_no_other_range_has_a_much_smaller_rounding_error(name: str) -> None:
    values = make_values(name)
    low, high = choose_range(count(values), "histogram", 99.0)
    smallest, largest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = np.linspace(0.3, 1, 15)
    best = min(
        rounding_error(values, smallest * below, largest * above)
        for below in (fractions if smallest else [1.0])
        for above in (fractions if largest else [1.0])
        if smallest or largest
    )
    assert rounding_error(values, low, high) <= 1.03 * best
    assert rounding_error(values, low, high) <= rounding_error(values, smallest, largest)


def test_the_histogram_cuts_what_minmax_keeps() -> None:
    values = make_values("normal")
    low, high = choose_range(count(values), "histogram", 99.0)
    assert values.min() < low < -2.5
    assert 2.5 < high < values.max()


@pytest.mark.parametrize("observer", ["minmax", "percentile", "histogram"])
def test_ranges_do_not_depend_on_order_and_size_of_batches(observer: str) -> None:
    values = make_values("outliers")
    ranges = {
        choose_range(count(part, parts), observer, 99.0)
        for part in (values, values[::-1].copy())
        for parts in (1, 3, 50)
    }
    assert len(ranges) == 1


def test_values_that_are_not_finite_are_left_out() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1, -2], dtype=np.float32)
    assert choose_range(count(values), "minmax", 99.0) == (-2, 1)
    assert choose_range(count(values[:3]), "histogram", 99.0) == (0, 0)
    assert choose_range(count(np.zeros(5, np.float32)), "percentile", 99.0) == (0, 0)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers).eval()


def make_request(network: nn.Module, **options: Any) -> ExportRequest:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(64, 1, 8, 8, generator=generator) for _ in range(4)]
    spec = SimpleNamespace(inputs=SimpleNamespace(name="images"), output=SimpleNamespace(name="logits"))
    manifest: Any = SimpleNamespace(to_text=lambda: "{}", spec=spec)
    return ExportRequest(network, manifest, batches[0][:2], batches, Int8Static(**options))


def write_onnx(request: ExportRequest, folder: Path) -> onnx.ModelProto:
    onnx_int8.write(request, folder)
    return onnx.load(str(folder / "model_int8.onnx"))


def read_onnx_scales(model: onnx.ModelProto) -> list[float]:
    """Scales of quantized activations, in the order of the graph."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [float(arrays[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"]


@torch.no_grad()
def list_observed_values(request: ExportRequest) -> list[np.ndarray]:
    """All values of images and of both ReLUs, by the float network."""
    network: Any = request.model
    images = torch.cat(list(request.calibration))
    return [images.numpy(), network[:2](images).numpy(), network[:4](images).numpy()]


def expected_range(values: np.ndarray, observer: str) -> tuple[float, float]:
    """The rules from all values, without a histogram; 98 % are kept by the percentile."""
    values = values.ravel()
    smallest, largest = min(float(values.min()), 0.0), float(values.max())
    if observer == "minmax":
        return smallest, largest
    if observer == "percentile":
        tails = [0.01, 0.99] if smallest < 0 else [0, 0.98]
        low, high = np.quantile(values, tails)
        return float(low), float(high)
    fractions = np.linspace(0.6, 1, 41)
    pairs = [(below, above) for below in (fractions if smallest else [0.0]) for above in fractions]
    below, above = min(pairs, key=lambda pair: rounding_error(values, smallest * pair[0], largest * pair[1]))
    return smallest * below, largest * above


OBSERVERS = {"minmax": {}, "percentile": {"percentile": 98.0}, "histogram": {}}

#: The squared error is flat around its least value, so ranges with nearly the same error may differ.
TOLERANCES = {"minmax": 1e-6, "percentile": 2e-3, "histogram": 0.08}


@pytest.mark.slow
@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_in_onnx_runtime_are_those_of_all_values(observer: str, tmp_path: Path) -> None:
    request = make_request(make_network(), observer=observer, **OBSERVERS[observer])
    scales = read_onnx_scales(write_onnx(request, tmp_path))
    for scale, values in zip(scales, list_observed_values(request), strict=False):
        low, high = expected_range(values, observer)
        assert 255 * scale == pytest.approx(high - low, rel=TOLERANCES[observer])
        is_cut = 255 * scale < 0.995 * float(values.max() - min(values.min(), 0))
        assert is_cut == (observer != "minmax")


@pytest.mark.slow
@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_in_inductor_are_those_of_onnx_runtime(observer: str, tmp_path: Path) -> None:
    request = make_request(make_network(), observer=observer, **OBSERVERS[observer])
    program = pt2_int8._quantize_program(request)
    nodes = [node for node in program.graph.nodes if "quantize_per_tensor" in str(node.target)]
    found = [(node.args[4] - node.args[3]) * node.args[1] for node in nodes if "dequantize" not in str(node.target)]
    expected = [255 * scale for scale in read_onnx_scales(write_onnx(request, tmp_path))]
    assert found == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def scale_hidden_values(network: Any, factor: float) -> nn.Module:
    """Return the network with hidden values times `factor` and the same outputs."""
    for parameter in network[0].parameters():
        parameter.mul_(factor)
    network[2].bias.mul_(factor)
    network[5].weight.mul_(1 / factor)
    return network  # type: ignore[no-any-return]


@pytest.mark.slow
def test_small_weights_and_activations_are_rounded_as_large_ones_in_inductor() -> None:
    images = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    errors = []
    for factor in (1.0, 2.0**-13):
        request = make_request(scale_hidden_values(make_network(), factor))
        program: Any = pt2_int8._quantize_program(request)
        with torch.no_grad():
            expected = request.model(images)
            errors.append(float((program.module()(images) - expected).std() / expected.std()))
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


def make_head(name: str) -> nn.Module:
    """A network that ends in different operators after its last layer."""
    torch.manual_seed(0)
    stem: list[nn.Module] = [nn.Conv2d(1, 8, 3), nn.ReLU()]
    heads: dict[str, list[nn.Module]] = {
        "linear": [nn.Flatten(), nn.Linear(288, 10)],
        "tokens": [nn.Flatten(2), nn.Linear(36, 12), nn.GELU(), nn.Linear(12, 10), nn.Flatten()],
        "average": [nn.Conv2d(8, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        "relu and average": [nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        "convolution": [nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 10, 4), nn.Flatten()],
        "two heads": [nn.Flatten(), TwoHeads(288, 10)],
        "scaled": [nn.Flatten(), nn.Linear(288, 10), Scale()],
    }
    return nn.Sequential(*stem, *heads[name]).eval()


class TwoHeads(nn.Module):
    """The mean of two linear layers, as of a distilled vision transformer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = (self.first(inputs) + self.second(inputs)) / 2
        return outputs


class Scale(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return 3 * inputs


HEADS = ("linear", "tokens", "average", "relu and average", "convolution", "two heads", "scaled")


def assert_not_rounded(run: Callable[[Tensor], Tensor]) -> None:
    """Rounded outputs would have at most 256 values in all."""
    images = torch.randn(3000, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        outputs = run(images)
    assert len(outputs.unique()) > 512


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_outputs_of_onnx_runtime_are_not_rounded(name: str, tmp_path: Path) -> None:
    model = write_onnx(make_request(make_head(name), min_quantized_fraction=0.0), tmp_path)
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    assert makers[model.graph.output[0].name] != "DequantizeLinear"
    assert_not_rounded(make_runner(tmp_path / "model_int8.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_outputs_of_inductor_are_not_rounded(name: str) -> None:
    program: Any = pt2_int8._quantize_program(make_request(make_head(name)))
    assert_not_rounded(program.module())
