"""OpenVINO: floats agree with their source, integers run and cost little accuracy, and nothing is sent anywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_facts import CONVOLUTIONS, LINEAR, read_details
from torch import nn

from dnntrain.bench import fastest_export
from dnntrain.bench.worker import measure_size_bytes
from dnntrain.choices.quant import _backends
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import check_installed, get_format
from dnntrain.export.openvino_coverage import measure_openvino_coverage
from dnntrain.export.openvino_files import MODEL_NAME, compile_model, import_openvino, make_runner
from dnntrain.export.openvino_quantizer import has_attention, quantize_openvino
from dnntrain.inference.load import load_model

Capture = pytest.CaptureFixture[str]
Folder = Callable[..., Path]


def convert(network: nn.Module, shape: tuple[int, ...], folder: Path) -> Any:
    """The OpenVINO model of a network."""
    path = folder / "network.onnx"
    torch.onnx.export(network.eval(), (torch.zeros(shape),), str(path), dynamo=True, verbose=False)
    return import_openvino().Core().read_model(str(path))


@pytest.mark.slow
def test_all_multiply_adds_of_a_quantized_network_run_in_integers(exports: Folder) -> None:
    assert read_details(exports("openvino_int8"))["census"]["macs"] == {"int8": CONVOLUTIONS + LINEAR}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3), (1, 4, 8, 8), 36 * 6 * 9 * 4),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 8, 8), 36 * 6 * 9 * 2),
        (nn.Conv1d(4, 6, 3), (1, 4, 8), 6 * 6 * 3 * 4),
        (nn.ConvTranspose2d(4, 6, 3), (1, 4, 8, 8), 64 * 4 * 9 * 6),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 8, 8), 64 * 4 * 9 * 3),
        (nn.Linear(5, 7), (1, 3, 5), 3 * 5 * 7),
    ],
)
def test_multiply_adds_are_those_of_the_layer(
    layer: nn.Module, shape: tuple[int, ...], macs: int, tmp_path: Path
) -> None:
    coverage = measure_openvino_coverage(convert(layer, shape, tmp_path), torch.zeros(shape))
    assert coverage.macs == {"fp32": macs}


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["minmax", "histogram", "percentile"])
def test_every_observer_keeps_the_accuracy(observer: str, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    words = [f"quant.observer={observer}", f"--path={path}", "quant.calibration_batches=4"]
    assert main(["export", str(run), "--format=openvino_int8", *words]) == 0
    assert read_details(path)["parity"]["drop"] <= 0.01


def read_ranges(model: Any) -> list[tuple[float, float]]:
    """The ranges of the quantized activations, in the order of the graph."""
    ranges = []
    for op in model.get_ordered_ops():
        if op.get_type_name() == "FakeQuantize" and op.input_value(0).get_node().get_type_name() == "Parameter":
            low, high = (op.input_value(number).get_node().get_data().item() for number in (1, 2))
            ranges.append((low, high))
    return ranges


@pytest.mark.slow
def test_each_option_has_its_effect(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 8)
    values[0, 0] = -40.0
    model = convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (2, 8), tmp_path)
    model.reshape([-1, 8])

    def quantize(**options: Any) -> Any:
        return quantize_openvino(model.clone(), Int8Static(**options), values.split(16))

    ((low, high),) = read_ranges(quantize())
    assert low == pytest.approx(-40 * 128 / 127)
    assert high == pytest.approx(40)
    for options in ({"observer": "percentile", "percentile": 90.0}, {"observer": "histogram"}):
        ((narrow_low, narrow_high),) = read_ranges(quantize(**options))
        assert low < narrow_low < 0 < narrow_high < high
    scales = {}
    for per_channel in (True, False):
        weights = [
            op.input_value(1).get_node().get_data()
            for op in quantize(per_channel=per_channel).get_ordered_ops()
            if op.get_type_name() == "Multiply"
            and op.input_value(1).get_node().get_type_name() == "Constant"
            and op.input_value(0).get_node().get_type_name() == "Convert"
        ]
        scales[per_channel] = max(scale.size for scale in weights)
    assert scales == {True: 8, False: 1}


class Attention(nn.Module):
    """One head of attention after a few values that are far larger than all others, as in trained transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 24), nn.Linear(8, 4)
        with torch.no_grad():
            self.inner.weight[:, 0] *= 0.01

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inner(inputs).chunk(3, dim=-1)
        outputs: torch.Tensor = self.outer((query @ key.transpose(1, 2)).softmax(-1) @ value)
        return outputs


@pytest.mark.slow
def test_attention_is_quantized_as_a_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Attention().eval()
    inputs = torch.randn(64, 5, 8)
    inputs[..., 0] *= 100
    model = convert(network, (2, 5, 8), tmp_path)
    assert has_attention(model)
    assert not has_attention(convert(nn.Linear(3, 4), (2, 3), tmp_path))
    model.reshape([-1, 5, 8])
    compiled = compile_model(quantize_openvino(model, Int8Static(), inputs.split(16)))
    outputs = torch.from_numpy(compiled([inputs.numpy()])[0].copy())
    with torch.no_grad():
        expected = network(inputs)
    assert (outputs - expected).norm() / (expected - expected.mean(0)).norm() < 0.1


@pytest.mark.slow
def test_the_same_run_gives_the_same_weights(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["export", str(run), "--format=openvino_int8", f"--path={tmp_path}/{name}"]) == 0
    # OpenVINO numbers the nodes of a graph on within a process, so the names in model.xml differ here.
    first, second = ((tmp_path / name / "model.bin").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "openvino_int8"])
def test_a_model_of_a_fixed_batch_predicts_any_number(name: str, run: Path, exports: Folder, tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert main(["export", str(run), f"--format={name}", "--batch=3", f"--path={path}"]) == 0
    assert import_openvino().Core().read_model(str(path / MODEL_NAME)).input().shape == [3, 1, 8, 8]
    inputs = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, outputs = (load_model(folder).compute_outputs(inputs) for folder in (exports(name), path))
    assert torch.allclose(outputs, expected, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_is_recorded_and_computes_with_fewer_digits(run: Path, exports: Folder, tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert main(["export", str(run), "--format=openvino", "--runtime=eager_bf16", f"--path={path}"]) == 0
    details, exact = read_details(path), read_details(exports("openvino"))
    assert (details["runtime"], exact["runtime"]) == ("eager_bf16", "eager")
    assert exact["parity"]["largest_error"] < 1e-4
    if torch.cpu._is_avx512_bf16_supported():
        assert details["parity"]["largest_error"] > 1e-4


@pytest.mark.slow
def test_a_lack_of_accuracy_or_of_integers_is_refused(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnntrain.export.formats import openvino_int8
    from dnntrain.inference import export_run

    words = ["export", str(run), "--format=openvino_int8", f"--path={tmp_path}/out"]
    monkeypatch.setattr(openvino_int8, "quantize_openvino", lambda model, options, batches: model)
    assert main(words) == 5
    assert "computes 100.0 % fp32" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(
        export_run.ExportSource,
        "make_calibration_batches",
        lambda self, batches, batch_size: [torch.full((8, 1, 8, 8), 1e-3)] * batches,
    )
    assert main(words) == 5
    assert "quant.max_metric_drop" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_error_of_openvino_leaves_a_format_out_of_auto(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def read_model(self, *paths: str) -> None:
            raise RuntimeError("Exception from src/core.cpp:1:\nOperator is not known\n")

    candidates = [option for option in fastest_export.EXPORT_CANDIDATES if option.name in ("onnx", "openvino")]
    monkeypatch.setattr(fastest_export, "EXPORT_CANDIDATES", candidates)
    for name, value in (("rounds", 1), ("seconds", 0.01)):
        monkeypatch.setitem(fastest_export.export_fastest.__kwdefaults__, name, value)
    monkeypatch.setattr(import_openvino(), "Core", Core)
    assert main(["export", str(run), "--format=auto", "--batches=1", "--threads=1", f"--path={tmp_path}/out"]) == 0
    reason = "openvino is skipped: the model cannot be converted to OpenVINO: Operator is not known"
    assert reason in capsys.readouterr().err
    assert main(["export", str(run), "--format=openvino", f"--path={tmp_path}/other"]) == 5
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_damaged_package_is_named(run: Path, exports: Folder, tmp_path: Path, capsys: Capture) -> None:
    for name in ("openvino", "nncf"):
        with pytest.MonkeyPatch.context() as patch:
            for module in [module for module in sys.modules if module.partition(".")[0] == name]:
                patch.delitem(sys.modules, module)
            (tmp_path / name).mkdir()
            (tmp_path / name / f"{name}.py").write_text("raise ImportError('libx.so: cannot open shared object file')")
            patch.syspath_prepend(str(tmp_path / name))
            assert main(["export", str(run), "--format=openvino_int8", f"--path={tmp_path}/out"]) == 2
            assert f"{name} is installed, but cannot be imported: libx.so" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_size_of_a_graph_includes_its_weights(exports: Folder) -> None:
    folder = exports("openvino")
    assert measure_size_bytes(folder / MODEL_NAME) == measure_size_bytes(folder)


def test_packages_to_write_are_not_needed_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "find_spec", lambda name: name == "openvino" or None)
    export_format = get_format("openvino_int8")
    check_installed(export_format)
    with pytest.raises(ConfigError, match=r"needs nncf, onnx, onnxscript.*\n.*dnntrain\[openvino\]"):
        check_installed(export_format, for_writing=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_damaged_file_is_named(name: str, alone: Folder, capsys: Capture) -> None:
    folder = alone("openvino_int8")
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["eval", str(folder)]) == 5
    assert name in capsys.readouterr().err


@pytest.mark.slow
def test_a_graph_that_openvino_cannot_read_is_named(alone: Folder) -> None:
    folder = alone("openvino")
    text = (folder / MODEL_NAME).read_text()
    for damaged in ("<net", text[: len(text) // 2], text.replace('type="Convolution"', 'type="Unknown"')):
        (folder / MODEL_NAME).write_text(damaged)
        with pytest.raises(CheckpointError, match=r"model.xml cannot be read by OpenVINO: \S"):
            make_runner(folder, "openvino")


@pytest.mark.slow
def test_the_weights_alone_are_not_a_model(alone: Folder, capsys: Capture) -> None:
    folder = alone("openvino")
    assert load_model(folder / MODEL_NAME).spec.inputs.shape == (1, 8, 8)
    (folder / "manifest.json").unlink()
    assert main(["eval", str(folder / MODEL_NAME)]) == 5
    assert "name the folder" in capsys.readouterr().err
    assert main(["eval", str(folder)]) == 5
    assert "has model.xml, but no manifest.json that describes it" in capsys.readouterr().err


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format=openvino", "--runtime=compiled"], "use --runtime eager"),
        (["--format=openvino", "--half"], "--half"),
        (["--format=openvino", "--opset=18"], "--opset"),
        (["--format=openvino_int8", "quant=int8_dynamic"], "use --format onnx_int8"),
        (["--format=openvino_int8", "quant=qat"], "cannot hold quant=qat"),
        (["--format=openvino_int8", "quant.backend=onnxruntime"], "use --format onnx_int8"),
        (["--format=openvino", "quant.observer=histogram"], "no effect with --format openvino"),
    ],
)
def test_a_setting_that_openvino_does_not_support_is_refused(
    words: list[str], reason: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["export", str(run), f"--path={tmp_path}/out", *words]) == 2
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


#: Exports in a process of its own, since nncf sends nothing beside pytest, and fails at the first use of the network.
_EXPORT = """
import sys
def refuse(event, values):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{event} {values}")
sys.addaudithook(refuse)
from dnntrain.cli.main import main
code = main(sys.argv[1:])
assert sys.modules["openvino_telemetry"] is None
assert "nncf" in sys.modules
sys.exit(code)
"""


@pytest.mark.slow
def test_nothing_is_sent_anywhere(run: Path, tmp_path: Path) -> None:
    words = ["export", str(run), "--format=openvino_int8", f"--path={tmp_path}/out"]
    environment = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _EXPORT, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "out")]
    assert not (tmp_path / "home" / "intel").exists()
