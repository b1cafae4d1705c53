"""Inner modules by pattern: checked against the names that exist, with the shapes of their outputs."""

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
from dnntrain.protocols import Context

Patterns = str | tuple[str, ...]


def matching(patterns: Patterns, model: nn.Module, knob: str) -> tuple[str, ...]:
    """Names of the modules that fit one of `patterns`, in the order of the model.

    `*` and `?` stand for letters of one part of a name, not for its dots: `stages.*` is every stage and nothing within one.
    Raises ConfigError, naming the nearest modules, where a pattern fits none.
    """
    names = [name for name, _ in model.named_modules() if name]
    wanted = (patterns,) if isinstance(patterns, str) else patterns
    if not wanted:
        raise ConfigError(f"{knob}=[] names no module", f"there are {', '.join(names[:10])}")
    for pattern in wanted:
        if not any(_fits(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 5, 0.4) or names[:10]
            raise ConfigError(f"{knob}={pattern} is no module of {type(model).__name__}", f"nearest: {', '.join(near)}")
    return tuple(name for name in names if any(_fits(name, pattern) for pattern in wanted))


def paired(
    context: Context, layers: Patterns, teacher: nn.Module, teacher_layers: Patterns | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(modules of the student, modules of the teacher), one for one. Raises ConfigError where their numbers differ."""
    ours = matching(layers, student_of(context), "distill.layers")
    knob = "distill.layers" if teacher_layers is None else "distill.teacher_layers"
    theirs = matching(layers if teacher_layers is None else teacher_layers, teacher, f"the teacher's {knob}")
    if len(ours) != len(theirs):
        raise ConfigError(
            f"distill.layers are {len(ours)} modules of the student ({', '.join(ours[:5])}), and {len(theirs)} of the teacher "
            f"({', '.join(theirs[:5])})",
            "name as many of each in distill.layers and distill.teacher_layers: they are compared in order",
        )
    return ours, theirs


def student_of(context: Context) -> nn.Module:
    """The student with weights of zero, in eval mode."""
    assert context.student is not None, "the trainer gives a student to every method"
    return context.student().eval()


def output_shapes(model: nn.Module, names: Sequence[str], context: Context) -> list[tuple[int, ...]]:
    """The shape of each module's output for one image, without the first dimension. Raises ConfigError where it is no tensor."""
    found: dict[str, Any] = {}
    hooks = [model.get_submodule(name).register_forward_hook(partial(_keep, found, name)) for name in names]
    try:
        with one_thread(), torch.no_grad():
            model(torch.zeros(1, *context.input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if not isinstance(found.get(name), Tensor):
            kind = type(found[name]).__name__ if name in found else "nothing: it is not called"
            raise ConfigError(f"the module {name} gives {kind}, not a tensor", "name another one in distill.layers")
    return [tuple(found[name].shape[1:]) for name in names]


def map_names(names: Sequence[str]) -> list[str]:
    """Names for what is captured of modules `names`: plain words, for adapters are kept under them."""
    return [f"distill_{number}" for number in range(len(names))]


def _fits(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _keep(found: dict[str, Any], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    found[name] = output
