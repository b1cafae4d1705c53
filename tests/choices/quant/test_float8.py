"""Float8 after training: its numbers, which layers, the program that holds them, and the hardware that it is refused on.

torchao asks for a GPU before it quantises; torch's own float8 product runs on a CPU, too. Here torchao is not let ask.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_runs import trained
from stand_ins import class_spec, context
from torch import Tensor, nn

from dnntrain.choices.quant.float8 import Float8, can_compute_float8, check_layers, convert_to_float8, is_convertible
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import ExportRequest, get_format, pt2_cuda
from dnntrain.export.formats.pt2_cuda import make_runner, write_on_device
from dnntrain.export.manifest import Manifest
from dnntrain.export.preflight import check_quantizable
from dnntrain.planning.checks.combinations import find_refusals
from dnntrain.protocols import Hooks
from dnntrain.utils.hardware import Hardware


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao does not ask for a GPU."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchao.quantization.quant_api as api
    monkeypatch.setattr(api, "_check_hardware_support", lambda granularity: None)


def multiplies_by_rows() -> bool:
    """Whether torch's float8 product on a CPU takes a scale for each row; that of torch 2.11 takes one in all."""
    values, scales = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(values, values.t(), scale_a=scales, scale_b=scales.t(), out_dtype=torch.bfloat16)
    except RuntimeError as error:
        if "only supports per-tensor scaling for CPU" in str(error):
            return False
        raise
    return True


by_rows = pytest.mark.skipif(not multiplies_by_rows(), reason="this torch multiplies in float8 by rows on a GPU only")
GRANULARITIES = [pytest.param("row", marks=by_rows), "tensor"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))


def in_float8(values: Tensor, of: str) -> Tensor:
    """bfloat16 `values` in e4m3, of which 448 is the largest, and back; a scale in bfloat16 for each row, or one for all."""
    scale = (values.abs().amax(1, keepdim=True) if of == "row" else values.abs().max()) / 448
    assert scale.dtype == torch.bfloat16
    return (values.float() / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale.float()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.usefixtures("unasked")
def test_a_product_is_that_of_inputs_and_weights_in_float8(granularity: str) -> None:
    plain = network()
    layer = convert_to_float8(plain, granularity, "cpu")[1]  # type: ignore[index]
    inputs = torch.randn(16, 64).bfloat16() * torch.logspace(-2, 2, 16).bfloat16()[:, None]
    weight, bias = plain[1].weight.bfloat16(), plain[1].bias.bfloat16()  # type: ignore[index]
    expected = in_float8(inputs, granularity) @ in_float8(weight, granularity).t() + bias.float()
    found = layer(inputs)
    assert found.dtype == torch.bfloat16
    # The result is rounded to bfloat16, which keeps 8 bits.
    assert torch.allclose(found.float(), expected, rtol=2**-8, atol=1e-6)
    exact = nn.functional.linear(inputs, weight, bias).float()
    assert not torch.allclose(exact, expected, rtol=2**-6, atol=1e-6)


@by_rows
@pytest.mark.usefixtures("unasked")
def test_by_rows_an_image_does_not_depend_on_its_neighbours() -> None:
    images = torch.randn(6, 1, 8, 8).bfloat16()
    louder = torch.cat([images[:1], 100 * images[1:]])
    alone = {name: convert_to_float8(network(), name, "cpu") for name in ("row", "tensor")}
    assert torch.equal(alone["row"](images)[0], alone["row"](louder)[0])
    assert not torch.equal(alone["tensor"](images)[0], alone["tensor"](louder)[0])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.usefixtures("unasked")
def test_zeros_times_anything_are_the_bias(granularity: str) -> None:
    plain = nn.Sequential(nn.Linear(32, 16))
    weight, bias = plain[0].weight, plain[0].bias
    with torch.no_grad():
        weight[3] = 0
        found = convert_to_float8(plain, granularity, "cpu")(
            torch.cat([torch.zeros(1, 32), torch.randn(5, 32)]).bfloat16()
        )
        assert torch.equal(found[0], bias.bfloat16())
        assert torch.equal(found[:, 3], bias[3].bfloat16().expand(6))
        assert torch.isfinite(found).all()
        weight.zero_()
        nothing = convert_to_float8(plain, granularity, "cpu")(torch.zeros(2, 32).bfloat16())
        assert torch.equal(nothing, bias.bfloat16().expand(2, 16))


@pytest.mark.usefixtures("unasked")
def test_layers_of_other_sizes_stay_in_bfloat16_and_the_network_as_it_was() -> None:
    plain = network()
    found = convert_to_float8(plain, "row", "cpu")
    kinds = [type(module.weight).__name__ for module in found.modules() if isinstance(module, nn.Linear)]
    assert kinds == ["Float8Tensor", "Float8Tensor", "Parameter"]
    assert all(parameter.dtype == torch.bfloat16 for parameter in found.parameters())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), network().parameters(), strict=True))


def test_a_layer_with_a_class_of_its_own_stays() -> None:
    class Own(nn.Linear):
        pass

    assert is_convertible(nn.Linear(16, 32))
    assert not is_convertible(Own(16, 32))
    assert not is_convertible(nn.Linear(16, 40))
    assert not is_convertible(nn.Linear(24, 32))


def source(quant: Float8, model: nn.Module | None = None) -> ExportRequest:
    card = Manifest("pt2_cuda", class_spec(10, (1, 8, 8), tuple("0123456789"), (0.0,), (1.0,)), {"device": "auto"})
    return ExportRequest((model or network()).eval(), card, torch.randn(2, 1, 8, 8), quant=quant)


@pytest.mark.slow
@by_rows
@pytest.mark.usefixtures("unasked")
def test_the_program_holds_float8_weights_runs_in_float8_and_takes_any_number_of_images(tmp_path: Path) -> None:
    details = write_on_device(source(Float8(min_quantized_fraction=0.4)), tmp_path, "cpu")
    weights = 64 * 48 + 48 * 32
    # A CPU has no float8 product: torch's own for it multiplies in float32 inside, and both are seen.
    macs = {"fp8": weights, "fp32": weights, "bf16": 32 * 10}
    assert details["census"]["macs"] == macs
    assert details["float8_weights"] == weights / (weights + 32 * 10 + 48 + 32 + 10)
    run = make_runner(tmp_path, "cpu")
    expected = convert_to_float8(network(), "row", "cpu")
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        found = run(images)
        assert found.dtype == torch.float32
        # Inductor keeps sums in float32 where operators in turn round them to bfloat16, which may end at the next float8.
        assert (found - expected(images.bfloat16()).float()).abs().max() < 0.05


@pytest.mark.long
@by_rows
@pytest.mark.usefixtures("unasked")
def test_a_run_is_exported_at_its_end_and_evaluated_from_the_export_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # On a CPU, which is taken for a device that computes in float8.
    monkeypatch.setattr(Float8, "find_hardware_refusal", lambda self, hardware: None)
    monkeypatch.setattr(pt2_cuda, "FORMAT", replace(pt2_cuda.FORMAT, devices=("cpu",)))
    words = (
        "model=vit_tiny",
        "model.embed_dim=32",
        "model.depth=2",
        "model.num_heads=2",
        "model.patch_size=2",
        "train.duration=1ep",
    )
    done = trained(
        tmp_path / "run", *words, "quant=float8", "quant.min_quantized_fraction=0.4", "quant.max_metric_drop=0.1"
    )
    found = done["export"]
    assert found["format"] == "pt2_cuda"
    assert found["census"]["shares"]["fp8"] == found["census"]["shares"]["fp32"] > 0.4
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run/exports/pt2_cuda"), "--trust", "--split=val", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]
    assert accuracy == pytest.approx(found["parity"]["value"])


@pytest.mark.slow
@by_rows
@pytest.mark.usefixtures("unasked")
def test_a_network_that_hardly_runs_in_float8_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(576, 16), nn.Linear(16, 10))
    with pytest.raises(
        CheckpointError, match=r"must compute in fp8, and computes .*quant\.min_quantized_fraction=0\.9"
    ):
        write_on_device(source(Float8(min_quantized_fraction=0.9), model), tmp_path, "cpu")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("device", "capability", "able"),
    [
        ("cpu", (0, 0), False),
        ("mps", (0, 0), False),
        ("cuda", (7, 5), False),
        ("cuda", (8, 0), False),
        ("cuda", (8, 6), False),
        ("cuda", (8, 9), True),
        ("cuda", (9, 0), True),
        ("cuda", (10, 0), True),
    ],
)
def test_the_hardware_is_known_by_its_capability(device: str, capability: tuple[int, int], able: bool) -> None:
    hardware = Hardware(device, device_name="GPU", capability=capability)
    assert can_compute_float8(hardware) is able
    assert (Float8().find_hardware_refusal(hardware) is None) is able
    found = [
        text
        for text in find_refusals(decode_config(compose(["quant=float8"], None)), hardware, 1)
        if "float8" in text.reason
    ]
    assert bool(found) is not able


def test_a_gpu_of_less_capability_is_named_with_what_works_there() -> None:
    hardware = Hardware("cuda", device_name="NVIDIA A100", capability=(8, 0))
    found = find_refusals(decode_config(compose(["quant=float8"], None)), hardware, 1)
    assert [str(refusal) for refusal in found] == [
        "quant=float8 computes in 8-bit floating point, which needs a CUDA device of compute capability 8.9 or more; "
        "this machine has NVIDIA A100 of capability 8.0\n  use quant=int8_dynamic, or quant=int8_weight_only"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_it_is_refused_on_a_cpu_before_training(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quant=float8", "device=cpu", *([f"run_dir={tmp_path}/run"] if verb == "train" else [])]
    assert main([verb, *words]) == 2
    first, fix = capsys.readouterr().err.splitlines()
    assert first.startswith("dnntrain: quant=float8 computes in 8-bit floating point")
    assert first.endswith("compute capability 8.9 or more; this machine has a CPU")
    assert fix == "  use quant=int8_dynamic, or quant=int8_weight_only"
    assert not (tmp_path / "run").exists()


def test_a_network_without_such_a_layer_is_refused_at_plan_time() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 8), nn.Flatten(), nn.Linear(16, 10))
    with pytest.raises(ConfigError, match="multiples of 16, but this model has none"):
        check_quantizable(Float8(), "float8", model, torch.zeros(2, 1, 8, 8))
    check_layers(network())


def test_a_network_that_computes_in_float32_by_itself_is_refused_with_its_line() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 16)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1).float())  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"test_float8\.py:\d+: return self\.head"):
        check_quantizable(Float8(), "float8", Own(), torch.zeros(2, 1, 8, 8))


def test_it_fills_no_slot_of_training_and_its_knobs_are_read() -> None:
    assert Float8().build(context()) == Hooks()
    quant = decode_config(
        compose(["quant=float8", "quant.granularity=tensor", "quant.min_quantized_fraction=0.2"], None)
    ).quant
    assert quant == Float8(granularity="tensor", min_quantized_fraction=0.2)
    with pytest.raises(ConfigError, match="granularity"):
        decode_config(compose(["quant=float8", "quant.granularity=block"], None))


def test_the_format_runs_on_a_gpu_alone(tmp_path: Path) -> None:
    assert get_format("pt2_cuda").devices == ("cuda",)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"--format pt2_cuda .* capability 8\.9 or more"):
            get_format("pt2_cuda").load(tmp_path, source(Float8()).manifest, "cpu")
