"""A user's own model: from a file or an entry point, with messages that name what is wrong with it."""

from __future__ import annotations

import copy
import pickle
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnntrain.choices.model.custom import Custom
from dnntrain.errors import ConfigError
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(10, 3, 8, 8)

Write = Callable[..., str]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, channels, height=0, width=0):
        super().__init__()
        self.linear = nn.Linear(channels * height * width, num_classes)
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
            inputs = shape["channels"] * shape["height"] * shape["width"]
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
        (NET.replace("height=0", "height, depth"), "needs the arguments depth; dnntrain does not pass them"),
        (NET.replace("nn.Linear(", "nn.Linear('x', "), "cannot be built: TypeError"),
        (NET.replace("flatten(1)", "flatten(2)"), "does not take images of 3x8x8: RuntimeError"),
        (NET.replace("num_classes)\n        nn", "num_classes + 1)\n        nn"), r"gives of shape (1, 11)"),
        (NET.replace("return self.linear(images.flatten(1))", "return [1]"), "gives a list"),
    ],
)
def test_faults_of_the_file_are_told(write: Write, source: str, told: str) -> None:
    assert told in refused(Custom(file=write(source)))


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
