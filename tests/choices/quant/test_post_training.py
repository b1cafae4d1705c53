"""Quantisation after training leaves training alone, and is refused where the machine cannot compute it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from rank_pool import Pool
from short_runs import trained
from stand_ins import context

from dnntrain.choices.quant import _backends
from dnntrain.choices.quant.int8_dynamic import Int8Dynamic
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.choices.quant.int8_weight_only import Int8WeightOnly
from dnntrain.cli.main import main
from dnntrain.errors import DataError
from dnntrain.export.preflight import check_image_counts
from dnntrain.protocols import Hooks


@pytest.mark.parametrize("choice", [Int8Static(), Int8Dynamic(), Int8WeightOnly()])
def test_it_fills_no_slot_of_training(choice: Int8Static) -> None:
    assert choice.build(context()) == Hooks()


def test_a_backend_that_is_not_installed_is_refused_at_plan_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backends, "find_spec", lambda name: None)
    assert main(["plan", "quant=int8_static", "quant.backend=onnxruntime"]) == 2
    assert "quant.backend=inductor" in capsys.readouterr().err


NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self, num_classes, in_channels, image_height, image_width):
        super().__init__()
        self.head = torch.nn.Linear(in_channels * image_height * image_width, num_classes)

    def forward(self, images):
        images = images.flatten(1)
        {line}
        return self.head(images)
"""


def custom(folder: Path, line: str) -> list[str]:
    (folder / "net.py").write_text(NET.format(line=line))
    return ["model=custom", f"model.file={folder}/net.py"]


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["int8_static", "int8_weight_only", "qat"])
def test_a_network_that_cannot_be_traced_is_refused_before_training_with_its_line(
    quant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = custom(tmp_path, "images = images if images.mean() > 0 else -images")
    assert main(["train", f"quant={quant}", *words, f"run_dir={tmp_path}/run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    reason = "cannot export the network in integers, because torch.export cannot trace it"
    assert lines[0].startswith(f"dnntrain: quant={quant} {reason}")
    assert "net.py:12: images = images if images.mean() > 0 else -images" in lines[0]
    assert lines[1:] == ["  use quant=none, which needs no trace (--format safetensors)"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_that_only_one_backend_takes_is_refused_with_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = custom(tmp_path, "__import__('random').random()")
    assert main(["plan", "quant=int8_dynamic", "quant.backend=inductor", *words]) == 2
    assert "use quant.backend=onnxruntime" in capsys.readouterr().err
    assert main(["plan", "quant=int8_dynamic", "quant.backend=onnxruntime", *words]) == 0


def test_weights_alone_are_refused_where_no_layer_is_linear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 8), nn.Flatten())\n"
    )
    words = ["model=custom", f"model.file={tmp_path}/net.py", "model.name=net"]
    assert main(["plan", "quant=int8_weight_only", *words]) == 2
    assert "quantizes linear layers only, and this model has none" in capsys.readouterr().err


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (["quant.calibration_batch_size=5000"], 3, "use quant.calibration_batch_size="),
        (["quant.calibration_batch_size=65", "train.max_examples=64"], 3, "use quant.calibration_batch_size=64"),
        (["quant.backend=inductor", "quant.per_channel=false"], 2, "use quant.per_channel=true"),
        (["quant.percentile=99"], 2, "use quant.observer=percentile"),
        (["quant.backend=inductor", "quant.bench_batch_sizes=[8]"], 2, "use quant.backend=auto"),
        (["quant.bench_batch_sizes=[]"], 2, "use quant.bench_batch_sizes=[1,64]"),
    ],
)
def test_calibration_that_cannot_be_is_refused_at_plan_time(
    words: list[str], code: int, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "quant=int8_static", "train.batch_size=32", *words]) == code
    assert fix in capsys.readouterr().err


def test_integers_that_could_be_compared_on_no_image_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.1"):
        check_image_counts(Int8Static(), "int8_static", 1000, 0)
    check_image_counts(Int8Static(), "int8_static", 64, 1)


@pytest.mark.slow
def test_a_network_of_the_users_own_is_trained_and_exported_in_integers(tmp_path: Path) -> None:
    words = custom(tmp_path, "pass")
    done = trained(tmp_path / "run", *words, "train.duration=1ep", "quant=int8_static", "quant.backend=onnxruntime")
    assert done["status"] == "done"
    assert done["export"]["census"]["shares"]["int8"] > 0.99


def test_the_plan_says_what_is_measured_and_how_much_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "quant=int8_static",
        "quant.calibration_batches=99999",
        "quant.calibration_batch_size=30",
        "quant.bench_batch_sizes=[16,2]",
    ]
    assert main(["plan", "--json", "train.max_examples=100", "train.batch_size=32", *words]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "quant.calibration_batches=99999: 100 training examples make 3 batches of 30" in notes
    assert any("at batch sizes 2, 16" in note for note in notes)


@pytest.mark.slow
def test_a_run_says_aloud_that_fewer_images_are_read_than_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train.max_examples=100", "train.batch_size=32", "train.duration=1ep")
    trained(
        tmp_path / "run", *words, "quant=int8_static", "quant.calibration_batches=99999", "quant.backend=onnxruntime"
    )
    assert "note: quant.calibration_batches=99999: 100 training examples make 1 batch of 64" in capsys.readouterr().err


@pytest.mark.slow
def test_calibrated_ranges_of_two_ranks_are_those_of_one_process(pool: Pool, tmp_path: Path) -> None:
    """Of the same weights: one process accumulates the micro-batches of the two. Scales and zero points are all numbers but weights."""
    line = (
        "model=small_cnn",
        "train.max_examples=160",
        "train.batch_size=32",
        "train.duration=10step",
        "precision=fp32",
    )
    line = (*line, "log.report=false", "quant=int8_static", "quant.backend=onnxruntime", "quant.calibration_batches=2")
    assert not pool.train(1, [*line, "train.micro_batch_size=16"], tmp_path / "one").error
    assert not pool.train(2, [*line, "parallel=ddp"], tmp_path / "two").error
    one, two = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (onnx.load(tmp_path / run / "exports" / "onnx_int8" / "model_int8.onnx") for run in ("one", "two"))
    )
    assert one.keys() == two.keys()
    assert sum("scale" in name for name in one) > 8
    for name, numbers in one.items():
        assert (numbers == two[name]).all(), name
