"""Find inner modules by pattern, and the shapes of their outputs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.nn.cost import one_thread
from dnntrain.protocols import BuildContext

Patterns = str | tuple[str, ...]


def match_modules(patterns: Patterns, model: nn.Module, option: str) -> tuple[str, ...]:
    """Return the names of modules that match one of `patterns`, in model order.

    `*` and `?` match letters of one part of a name, but not its dots: `stages.*` is every stage and
    nothing within one. Raises ConfigError with the nearest modules if a pattern matches none.
    """
    names = [name for name, _ in model.named_modules() if name]
    pattern_list = (patterns,) if isinstance(patterns, str) else patterns
    if not pattern_list:
        raise ConfigError(f"{option}=[] names no module", f"name one or more of {', '.join(names[:10])}")
    for pattern in pattern_list:
        if not any(_is_match(name, pattern) for name in names):
            nearest = difflib.get_close_matches(pattern, names, 5, 0.4) or names[:10]
            raise ConfigError(
                f"{option}={pattern} does not match a module of {type(model).__name__}",
                f"nearest: {', '.join(nearest)}",
            )
    return tuple(name for name in names if any(_is_match(name, pattern) for pattern in pattern_list))


def pair_modules(
    context: BuildContext, layers: Patterns, teacher: nn.Module, teacher_layers: Patterns | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return modules of the student and of the teacher, one for one.

    Raises ConfigError if their numbers differ.
    """
    student_modules = match_modules(layers, build_student(context), "distill.layers")
    option = "distill.layers" if teacher_layers is None else "distill.teacher_layers"
    teacher_modules = match_modules(
        layers if teacher_layers is None else teacher_layers, teacher, f"the teacher's {option}"
    )
    if len(student_modules) != len(teacher_modules):
        raise ConfigError(
            f"distill.layers matches {len(student_modules)} modules of the student ({', '.join(student_modules[:5])}), "
            f"but {len(teacher_modules)} of the teacher ({', '.join(teacher_modules[:5])})",
            "name the same number of modules in distill.layers and distill.teacher_layers: they are compared in order",
        )
    return student_modules, teacher_modules


def build_student(context: BuildContext) -> nn.Module:
    """Build the student with weights of zero, in eval mode."""
    assert context.build_model is not None, "the trainer gives a student to every method"
    return context.build_model().eval()


def compute_output_shapes(model: nn.Module, names: Sequence[str], context: BuildContext) -> list[tuple[int, ...]]:
    """Return the shape of each module's output for one image.

    The shapes are without the first dimension. Raises ConfigError if an output is not a tensor.
    """
    outputs: dict[str, Any] = {}
    hooks = [model.get_submodule(name).register_forward_hook(partial(_store_output, outputs, name)) for name in names]
    try:
        with one_thread(), torch.no_grad():
            model(context.spec.inputs.make_zeros(1))
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if not isinstance(outputs.get(name), Tensor):
            problem = f"it returns {type(outputs[name]).__name__}" if name in outputs else "the model does not call it"
            raise ConfigError(
                f"the module {name} must return a tensor; {problem}", "name another one in distill.layers"
            )
    return [tuple(outputs[name].shape[1:]) for name in names]


def make_tap_names(names: Sequence[str]) -> list[str]:
    """Return plain names for the captured outputs of modules `names`.

    The names must be plain words, because adapters are stored under them.
    """
    return [f"distill_{number}" for number in range(len(names))]


def _is_match(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _store_output(outputs: dict[str, Any], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = output
