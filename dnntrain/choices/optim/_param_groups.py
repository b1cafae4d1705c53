"""Parameter groups: what each parameter's learning rate is multiplied with, and how much it decays, by its name and depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import nearest

NamedParameters = Iterable[tuple[str, nn.Parameter]]


class Setting(NamedTuple):
    """How one parameter is stepped.

    lr_scale      factor on the learning rate
    weight_decay  of this parameter
    vector        a bias, a gain, an embedding of positions: nothing that maps features to features
    hidden        the matrix of a linear or convolution layer other than the head, the last linear layer
    """

    lr_scale: float
    weight_decay: float
    vector: bool
    hidden: bool


class GroupRule(NamedTuple):
    """What `optim.groups` says of the parameters whose names match `pattern`; None: as it would be."""

    pattern: str
    lr_scale: float | None
    weight_decay: float | None

    @classmethod
    def parse(cls, text: str) -> GroupRule:
        """From `PATTERN lr_scale=NUMBER weight_decay=NUMBER`, of which one number may be missing. Raises ValueError."""
        pattern, *words = text.split()
        numbers = dict(word.split("=") for word in words)
        if len(numbers) != len(words):
            raise ValueError(f"groups: {text!r} sets a number twice")
        values = {name: float(number) for name, number in numbers.items()}
        if values.get("lr_scale") == 0:
            raise ValueError(f"groups: {text!r}: lr_scale must be above 0")
        return cls(pattern, values.get("lr_scale"), values.get("weight_decay"))


def parameter_settings(
    model: nn.Module,
    weight_decay: float,
    no_decay: Sequence[str] = (),
    rules: Sequence[GroupRule] = (),
    layer_decay: float = 1.0,
) -> dict[str, Setting]:
    """The setting of every parameter of the *whole* `model`, by name.

    Weights decay; vectors do not, as decaying gains and biases only costs accuracy (He et al., "Bag of tricks", 2019,
    section 3.1), nor do names that match a pattern of `no_decay`. The learning rate of the block d before the last is multiplied
    with layer_decay^d (Bao et al., "BEiT", 2022). `rules` come last, the later one winning; their lr_scale multiplies layer_decay's.

    Raises ConfigError where a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for key, patterns in (("no_decay", no_decay), ("groups", [rule.pattern for rule in rules])):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise ConfigError(f"optim.{key}: no parameter is called {pattern!r}; {_advice(pattern, parameters)}")
    depths, hidden = block_depths(parameters.items()), hidden_matrices(model)
    deepest = max(depths.values(), default=0)
    settings = {}
    for name, parameter in parameters.items():
        vector = parameter.ndim < 2 or _is_embedding(name)
        decay = 0.0 if vector or any(fnmatchcase(name, pattern) for pattern in no_decay) else weight_decay
        setting = Setting(layer_decay ** (deepest - depths[name]), decay, vector, name in hidden)
        own_scale = 1.0
        for rule in rules:
            if fnmatchcase(name, rule.pattern):
                own_scale = own_scale if rule.lr_scale is None else rule.lr_scale
                decay = decay if rule.weight_decay is None else rule.weight_decay
        settings[name] = setting._replace(lr_scale=setting.lr_scale * own_scale, weight_decay=decay)
    return settings


def parameter_groups(
    named_parameters: NamedParameters, settings: Mapping[str, Setting], lr: float
) -> list[dict[str, Any]]:
    """Groups of named trainable parameters that are alike: same lr_scale, weight decay and kind; `lr` times lr_scale is their rate.

    Parameters that are shards on different device meshes are never in one group: fused and foreach kernels cannot mix them.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        setting = settings[name]
        # A DTensor has a mesh, a plain tensor has none.
        mesh = getattr(parameter, "device_mesh", None)
        key = (setting.lr_scale, setting.weight_decay, setting.vector, mesh)
        group = groups.setdefault(
            key,
            {
                "params": [],
                "lr": lr * setting.lr_scale,
                "lr_scale": setting.lr_scale,
                "weight_decay": setting.weight_decay,
                "vector": setting.vector,
                # Not every fused kernel of torch knows shards; the foreach ones do.
                **({"fused": False, "foreach": True} if mesh is not None else {}),
            },
        )
        group["params"].append((name, parameter))
    return list(groups.values())


def block_depths(named_parameters: NamedParameters) -> dict[str, int]:
    """The depth of each parameter's block, from 0, in the order in which the model registers its modules.

    A block is the shortest module path that ends in a number (`blocks.3`, `layer1.0`), else the first part of the path (`stem`,
    `head`). Parameters of the model itself (position embeddings, class tokens) belong to block 0, and a block of vectors alone (a
    norm) to the one before it.
    """
    blocks: dict[str, list[str]] = {}
    with_matrix: set[str] = set()
    for name, parameter in named_parameters:
        block = _block(name)
        blocks.setdefault(block, []).append(name)
        if parameter.ndim >= 2:
            with_matrix.add(block)
    depths: dict[str, int] = {}
    depth = -1
    for block, names in blocks.items():
        depth += block != "" and block in with_matrix
        depths.update(dict.fromkeys(names, 0 if block == "" else max(depth, 0)))
    return depths


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights of linear and convolution layers except the last linear one."""
    last_linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name not in last_linear
    }


def split(
    named_parameters: NamedParameters, chosen: Callable[[str], bool]
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """(those whose name is chosen, the rest)."""
    named = list(named_parameters)
    return [item for item in named if chosen(item[0])], [item for item in named if not chosen(item[0])]


def _block(name: str) -> str:
    module = name.rpartition(".")[0]
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", module)
    return numbered.group() if numbered else module.partition(".")[0]


def _is_embedding(name: str) -> bool:
    return name.endswith(("position_embedding", "pos_embed", "class_token", "cls_token"))


def _advice(pattern: str, parameters: Mapping[str, nn.Parameter]) -> str:
    names = list(parameters)
    close = nearest(pattern, names)
    if close is not None:
        return f"did you mean {close!r}?"
    shown = ", ".join(names[:8])
    return f"they are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
