"""`init_prefix`: a backbone of another framework's file, a head of another size, and a report of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from short_runs import trained
from torch import Tensor, nn

from dnntrain.choices.model.mlp import Mlp
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weight_names import NamePrefix, find_fitting_prefixes
from dnntrain.nn.weights import check_weights, load_weights


def build(num_classes: int = 10) -> nn.Module:
    return Mlp((16,)).build(ModelShape(num_classes, 1, 8, 8))


def add_prefix(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def body_equal(model: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    names = [name for name in state if not name.startswith("head.")]
    return bool(names) and all(torch.equal(model.state_dict()[name], state[name]) for name in names)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("backbone.", ("backbone.", "")),
        ("backbone", ("backbone.", "")),
        (":encoder", ("", "encoder.")),
        ("encoder_q.:features.0", ("encoder_q.", "features.0.")),
    ],
)
def test_a_prefix_names_a_part_of_the_file_and_of_the_model(text: str, prefix: tuple[str, str]) -> None:
    assert NamePrefix.parse(text) == NamePrefix(*prefix)


@pytest.mark.parametrize("wrapper", ["", "module.", "module.model."])
@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_a_backbone_is_loaded_and_its_head_keeps_its_initialization(tmp_path: Path, wrapper: str, prefix: str) -> None:
    source = build(num_classes=7)
    state = add_prefix(f"{wrapper}{prefix}", source) | {f"{wrapper}projector.weight": torch.zeros(3, 3)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "ssl.pth")
    model = build()
    head = model.state_dict()["head.weight"].clone()
    report = load_weights(model, tmp_path / "ssl.pth", False, NamePrefix.parse(prefix))
    assert body_equal(model, source)
    assert torch.equal(model.state_dict()["head.weight"], head)
    assert set(report.kept_head) == {"head.weight", "head.bias"}
    text = str(report)
    assert "2 tensors from" in text
    assert "head.weight (7x16 in the file, 10x16 here)" in text
    assert f"1 of the file are not used: {wrapper}projector.weight" in text


def test_a_file_without_the_head_is_a_backbone(tmp_path: Path) -> None:
    source = build()
    state = {name: value for name, value in add_prefix("backbone.", source).items() if ".head." not in name}
    save_file(state, tmp_path / "m.safetensors")
    model = build()
    report = load_weights(model, tmp_path / "m.safetensors", False, NamePrefix.parse("backbone."))
    assert body_equal(model, source)
    assert report.kept_head == ("head.weight", "head.bias")
    assert report.reasons == {}


def test_a_file_is_loaded_into_a_part_of_the_model(tmp_path: Path) -> None:
    source = build()
    save_file({f"encoder_q.{name}": value for name, value in source.state_dict().items()}, tmp_path / "m.safetensors")
    model = nn.ModuleDict({"features": build(), "head": nn.Linear(10, 3)})
    report = load_weights(model, tmp_path / "m.safetensors", False, NamePrefix.parse("encoder_q.:features."))
    assert body_equal(model["features"], source)
    assert report.kept == ("head.weight", "head.bias")
    assert "2 outside the part keep their initialization: head.weight, head.bias" in str(report)


def test_a_part_that_does_not_fit_is_rejected_whole(tmp_path: Path) -> None:
    state = add_prefix("backbone.", build())
    name = next(name for name in state if not name.startswith("backbone.head."))
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for wrong, word in ((torch.zeros(2, 2), "mis-shaped"), (None, "missing")):
        changed = {key: value for key, value in state.items() if key != name}
        save_file(changed if wrong is None else {**changed, name: wrong}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=word):
            load_weights(model, tmp_path / "m.safetensors", True, NamePrefix.parse("backbone."))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_prefix_that_no_name_has_is_answered_with_those_of_the_file(tmp_path: Path) -> None:
    save_file(add_prefix("encoder.", build()) | {"queue": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no name begins with 'backbone\.'; its names begin with encoder\., queue"
    ):
        check_weights(build(), tmp_path / "m.safetensors", False, NamePrefix.parse("backbone."))


def test_a_file_that_fits_with_a_prefix_says_so(tmp_path: Path) -> None:
    state = add_prefix("student.", build()) | add_prefix("teacher.", build(3))
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError) as caught:
        check_weights(build(), tmp_path / "m.safetensors", True)
    assert "use init_prefix=student. or init_prefix=teacher." in str(caught.value)
    assert find_fitting_prefixes({"a.w": (2,)}, {"w": (3,)}) == ()
    assert find_fitting_prefixes({"a.w": (2,)}, {}) == ()


@pytest.mark.slow
def test_backbones_of_torchvision_and_timm_are_loaded(tmp_path: Path) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    sources = (torchvision.models.resnet18(), timm.create_model("resnet10t", num_classes=1000))
    targets = (torchvision.models.resnet18(num_classes=10), timm.create_model("resnet10t", num_classes=10))
    for source, target in zip(sources, targets, strict=True):
        state = add_prefix("module.backbone.", source) | {"module.head.mlp.0.weight": torch.zeros(4, 4)}
        torch.save({"state_dict": state}, tmp_path / "ssl.pth")
        report = load_weights(target, tmp_path / "ssl.pth", False, NamePrefix.parse("backbone."))
        assert len(report.loaded) == len(target.state_dict()) - 2
        assert report.kept_head == ("fc.weight", "fc.bias")
        assert report.unused == ("module.head.mlp.0.weight",)
        expected = source.state_dict()
        assert all(torch.equal(target.state_dict()[name], expected[name]) for name in report.loaded)


def test_a_part_without_a_file_has_no_effect_and_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "init_prefix=backbone."]) == 2
    assert "init_prefix=backbone. has no effect without init_from" in capsys.readouterr().err


@pytest.mark.slow
def test_the_plan_and_the_report_of_a_run_state_what_was_loaded(tmp_path: Path) -> None:
    source = Mlp((16,)).build(ModelShape(3, 1, 8, 8))
    torch.save(add_prefix("module.backbone.", source), tmp_path / "ssl.pth")
    run = tmp_path / "run"
    words = ("model=mlp", "model.hidden=[16]", f"init_from={tmp_path / 'ssl.pth'}", "init_prefix=backbone.")
    trained(run, *words, "train.duration=1step", "optim.lr=1e-12", "log.report=true")
    notes = [note for note in json.loads((run / "plan.json").read_text())["notes"] if note.startswith("init_from: ")]
    assert len(notes) == 1
    assert "2 tensors from" in notes[0]
    assert "head.weight (3x16 in the file, 10x16 here)" in notes[0]
    assert "head.weight (3x16 in the file" in (run / "report.html").read_text()
