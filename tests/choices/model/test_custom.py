"""A user's own model: from a file or an entry point, with messages that name what is wrong with it."""

from __future__ import annotations

import copy
import pickle
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dnntrain
from dnntrain.choices.model.custom import Custom
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(10, 3, 8, 8)

Write = Callable[..., str]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, image_height=0, image_width=0):
        super().__init__()
        self.linear = nn.Linear(in_channels * image_height * image_width, num_classes)
        nn.init.constant_(self.linear.bias, 0.5)

    def forward(self, images):
        return self.linear(images.flatten(1))
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a Python file and gives its path."""

    def to_file(source: str, name: str = "net.py") -> str:
        (tmp_path / name).write_text(textwrap.dedent(source))
        return str(tmp_path / name)

    return to_file


def refused(custom: Custom) -> str:
    with pytest.raises(ConfigError) as caught:
        custom.build(SHAPE)
    return str(caught.value)


def test_the_class_gets_those_numbers_that_its_constructor_takes(write: Write) -> None:
    model = Custom(file=write(NET), name="Net").build(SHAPE)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_the_only_module_of_a_file_needs_no_name(write: Write) -> None:
    assert type(Custom(file=write(NET)).build(SHAPE)).__name__ == "Net"


def test_a_constructor_may_take_any_keyword(write: Write) -> None:
    source = """
    from torch import nn
    class Any(nn.Sequential):
        def __init__(self, **shape):
            inputs = shape["in_channels"] * shape["image_height"] * shape["image_width"]
            super().__init__(nn.Flatten(), nn.Linear(inputs, shape["num_classes"]))
    """
    assert Custom(file=write(source)).build(SHAPE)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_first_weights_follow_from_the_seed_and_keep_the_constructors_rules(write: Write) -> None:
    custom = Custom(file=write(NET))
    torch.manual_seed(1)
    first = custom.build(SHAPE)
    torch.manual_seed(2)
    second = custom.build(SHAPE)
    initialize_weights(first, 0)
    initialize_weights(second, 0)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert (first.linear.bias == 0.5).all()  # type: ignore[union-attr]


def test_the_model_can_be_copied_and_pickled(write: Write) -> None:
    model = Custom(file=write(NET)).build(SHAPE)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_a_changed_file_is_run_anew(write: Write) -> None:
    path = write(NET)
    Custom(file=path).build(SHAPE)
    write(NET.replace("class Net", "class Changed"))
    assert type(Custom(file=path).build(SHAPE)).__name__ == "Changed"


def test_either_a_file_or_an_entry_point_is_needed() -> None:
    assert "needs either model.file or model.entry_point" in refused(Custom())
    assert "needs either" in refused(Custom(file="a.py", entry_point="a"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def broken(:", "SyntaxError"),
        ("import missing_module_of_nobody", "missing_module_of_nobody"),
        ("x = 1", "defines 0 classes that are a torch.nn.Module: none"),
        (NET + NET.replace("class Net", "class Other"), "defines 2 classes that are a torch.nn.Module: Net, Other"),
        (
            NET.replace("image_height=0", "image_height, depth"),
            "Net needs the argument depth\n  set model.args.depth=VALUE;",
        ),
        # A width or channels of the network are not those of the images.
        (
            NET.replace("in_channels, image", "channels, image"),
            "Net needs the argument channels\n  set model.args.channels=",
        ),
        (NET.replace("nn.Linear(", "nn.Linear('x', "), "cannot be built: TypeError"),
        (NET.replace("flatten(1)", "flatten(2)"), "does not take images of 3x8x8: RuntimeError"),
        (NET.replace("num_classes)\n        nn", "num_classes + 1)\n        nn"), r"gives of shape (1, 11)"),
        (NET.replace("return self.linear(images.flatten(1))", "return [1]"), "gives a list"),
    ],
)
def test_faults_of_the_file_are_told(write: Write, source: str, told: str) -> None:
    assert told in refused(Custom(file=write(source)))


LAYERS = """
from torch import nn

class Layers(nn.Sequential):
    def __init__(self, num_classes, in_channels, width=4, channels=3, *, depths=(1,)):
        super().__init__(nn.Conv2d(in_channels, width, 3), nn.Conv2d(width, channels * len(depths), 6), nn.Flatten(),
                         nn.Linear(channels * len(depths), num_classes))
"""


@pytest.mark.parametrize(
    ("args", "sizes"),
    [({}, [4, 3]), ({"width": 8}, [8, 3]), ({"width": 8, "channels": 5}, [8, 5]), ({"depths": [1, 1]}, [4, 6])],
)
def test_arguments_of_the_network_come_from_model_args(write: Write, args: dict[str, Any], sizes: list[int]) -> None:
    model = Custom(file=write(LAYERS), args=Arguments(args)).build(SHAPE)
    assert [model[0].out_channels, model[1].out_channels] == sizes  # type: ignore[index]
    assert model[0].in_channels == 3  # type: ignore[index]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"widht": 8}, "model.args.widht: Layers of model.file="),
        ({"widht": 8}, "does not have this argument; did you mean 'width'?"),
        ({"num_classes": 8}, "model.args.num_classes cannot be set, because the data sets it"),
    ],
)
def test_an_argument_that_the_class_does_not_take_is_named(write: Write, args: dict[str, Any], message: str) -> None:
    assert message in refused(Custom(file=write(LAYERS), args=Arguments(args)))


@pytest.mark.slow
def test_arguments_are_typed_one_by_one_or_as_a_mapping(write: Write) -> None:
    base = ["model=custom", f"model.file={write(LAYERS)}"]
    configs = [
        compose([*base, "model.args.width=8", "model.args.depths=[1,2]"]),
        compose([*base, "model.args={width: 8, depths: [1, 2]}"]),
    ]
    assert configs[0]["model"]["args"] == configs[1]["model"]["args"] == {"width": 8, "depths": [1, 2]}
    assert decode_config(configs[0]).model.args == Arguments({"width": 8, "depths": [1, 2]})  # type: ignore[attr-defined]
    assert decode_config(compose(base)).model.args == Arguments()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_networks_of_the_models_page_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python file=net.py\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(source)
    lines = re.findall(r"^dnntrain (model=custom .* run_dir=.*)$", page, re.M)
    results = [dnntrain.train(*line.split(), "train.cpu_threads=1", display="quiet") for line in lines]
    assert [result["parameters"] for result in results] == [6090, 21386]
    assert all(result["value"] > 0.8 for result in results)


def test_a_misspelled_class_gets_the_nearest_name(write: Write) -> None:
    assert "did you mean 'Net'?" in refused(Custom(file=write(NET), name="Nett"))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "none.py is not a file" in refused(Custom(file=str(tmp_path / "none.py")))


def test_a_class_that_is_no_module_is_told(write: Write) -> None:
    assert "is a dict, not a torch.nn.Module" in refused(Custom(file=write("def make(): return {}"), name="make"))


def test_installed_packages_offer_models_by_entry_points(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(NET, "offering_package.py")
    information = tmp_path / "offering-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[dnntrain.models]\nmine = offering_package:Net\nbad = offering_package:No\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(Custom(entry_point="mine").build(SHAPE)).__name__ == "Net"
    assert "did you mean 'mine'?" in refused(Custom(entry_point="mne"))
    assert "cannot be loaded: AttributeError" in refused(Custom(entry_point="bad"))
