"""What a choice may have is declared; no module looks an attribute of a choice up, or knows a choice by its name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from dnntrain import protocols
from dnntrain.config.groups import GROUPS
from dnntrain.protocols import Choice

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dnntrain"

#: Names by which the code calls a choice, or a part of the configuration that holds some.
HOLDERS = {
    "choice",
    "config",
    "layout",
    "method",
    "quant",
    "optim",
    "sched",
    "norm",
    "distill",
    "launch",
    "guard",
    "task",
}

#: (file, name) of choices that are known outside their own file, with the reason.
ALLOWED: dict[tuple[str, str], str] = {
    ("utils/given_objects.py", "custom"): "objects from Python are used by the choices of a user's own code",
    ("protocols/image_reading.py", "fast"): "a way to decode images; debug=fast is another thing",
    ("planning/checks/combinations.py", "gpt"): "a hint names a network for texts",
    ("planning/checks/combinations.py", "mlp"): "a hint names a network for all other inputs",
}

#: Names that are words of other things too: options, units, devices, formats of files and numbers, packages, keys of parameter groups.
WORDS = {
    *("none", "auto", "step", "linear", "constant", "local", "group", "layer", "adaptive", "nesterov", "kd"),
    *(
        "bf16",
        "fp16",
        "fp32",
        "tp",
        "pp",
        "timm",
        "torchvision",
        "tensorboard",
        "mlflow",
        "weight_decay",
        "label_smoothing",
        "classification",
    ),
    *("crop", "flip", "dropout", "sequence", "full", "exponential", "digits", "frozen", "slurm"),
    *("tokens", "text", "outputs", "magnitude", "median", "adam", "hf"),
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_no_attribute_of_a_choice_is_looked_up() -> None:
    found = [
        f"{file}:{node.lineno}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and HOLDERS & {part.strip("_") for part in ast.unparse(node.args[0]).replace("()", "").split(".")}
    ]
    assert found == []


@pytest.mark.slow
def test_no_class_name_is_an_identity() -> None:
    found = [
        f"{file}:{node.lineno}"
        for file, tree in trees()
        if not file.startswith(("nn/", "choices/"))  # classes of layers that other packages define
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and "type(" in ast.unparse(node) and ".__name__" in ast.unparse(node)
    ]
    assert found == []


@pytest.mark.slow
def test_no_choice_is_known_by_name_outside_its_own_file() -> None:
    names = {file.stem for group in GROUPS for file in (ROOT / "conf" / group).glob("*.yaml")} - WORDS
    found = []
    for file, tree in trees():
        if file.startswith(("choices/", "config/foreign_", "config/translate.py")):
            continue  # a choice may say what to use in its place, and words of other trainers mean choices
        for node in ast.walk(tree):
            is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
            if is_name and (file, node.value) not in ALLOWED:
                found.append(f"{file}:{node.lineno}: {node.value}")
    assert found == []


@pytest.mark.parametrize("group", [name for name, group in GROUPS.items() if not group.overlay])
def test_each_group_has_a_base_that_declares_no_options(group: str) -> None:
    base = vars(protocols)[GROUPS[group].base]
    assert issubclass(base, Choice)
    assert not any(is_dataclass(item) for item in inspect.getmro(base))
