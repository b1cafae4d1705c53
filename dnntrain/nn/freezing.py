"""Freeze the parameters and statistics of a model that match the patterns of `train.freeze`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dnntrain.errors import ConfigError
from dnntrain.nn.shape import find_head_modules
from dnntrain.utils.suggest import find_nearest


class _AlwaysEval(nn.Module):
    """A layer that stays in eval mode: it uses its running statistics and does not change them."""

    def train(self, mode: bool = True) -> _AlwaysEval:
        super().train(False)
        return self


def freeze_model(model: nn.Module, patterns: Sequence[str], fixed: frozenset[str] = frozenset()) -> nn.Module:
    """Freeze in place all that `patterns` select, and return `model`.

    A frozen parameter needs no gradient; the parameters `fixed` need none either. A normalization
    whose running mean is frozen stays in eval mode, so that its statistics keep their values. Raises
    ConfigError as `find_frozen_names` does.
    """
    frozen_names = find_frozen_names(model, patterns)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in frozen_names or name in fixed:
            parameter.requires_grad_(False)
    if fixed and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "optim.param_groups gives each parameter that is not frozen the rate 0, which leaves nothing to train",
            f'name the part that is trained, as in "{_name_head(model)[1:]} lr_scale=1"',
        )
    for name, module in list(model.named_modules()):
        if isinstance(module, _NormBase) and f"{name}.running_mean" in frozen_names:
            module.__class__ = type(type(module).__name__, (_AlwaysEval, type(module)), {})
            module.eval()
    return model


def is_frozen_norm(module: nn.Module) -> bool:
    """Return whether `freeze_model` keeps the statistics of this layer."""
    return isinstance(module, _AlwaysEval)


def find_frozen_names(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters and buffers that `patterns` freeze.

    The last pattern that matches a name decides: `PATTERN` freezes, `!PATTERN` does not. Raises
    ConfigError if a pattern matches no name, or if nothing is left to train.
    """
    if not patterns:
        return frozenset()
    names = [name for name, _ in chain(model.named_parameters(remove_duplicate=False), model.named_buffers())]
    if unmatched := [item for item in patterns if not any(fnmatchcase(name, item.lstrip("!")) for name in names)]:
        raise ConfigError.from_mistakes([_describe_unmatched(item, model, names) for item in unmatched])
    frozen_names = frozenset(name for name in names if is_frozen(name, patterns))
    if all(name in frozen_names for name, parameter in model.named_parameters() if parameter.requires_grad):
        raise ConfigError(
            f"train.freeze={_format_patterns(patterns)} leaves nothing to train",
            f"end it with the part that is trained: train.freeze={_format_patterns((*patterns, _name_head(model)))}",
        )
    return frozen_names


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the last of `patterns` that matches `name` freezes it."""
    matching = [item for item in patterns if fnmatchcase(name, item.lstrip("!"))]
    return bool(matching) and not matching[-1].startswith("!")


def _describe_unmatched(pattern: str, model: nn.Module, names: Sequence[str]) -> str:
    mark, text = ("!" if pattern.startswith("!") else ""), pattern.lstrip("!")
    modules = dict.fromkeys(name[: at + 1] + "*" for name in names for at, letter in enumerate(name) if letter == ".")
    nearest = find_nearest(text, [*modules, *names])
    if nearest is not None:
        hint = f"did you mean {mark + nearest!r}?"
    else:
        children = ", ".join(dict.fromkeys(name.partition(".")[0] + ".*" for name in names if "." in name))
        hint = f"the parts of the model are {children}"
    return f"train.freeze: {pattern!r} matches no parameter or statistic of the model; {hint}\n  its head is {_name_head(model)!r}"


def _name_head(model: nn.Module) -> str:
    heads = find_head_modules(model)
    return f"!{heads[0]}.*" if heads else "!PATTERN"


def _format_patterns(patterns: Sequence[str]) -> str:
    return "[" + ",".join(f'"{pattern}"' for pattern in patterns) + "]"
