"""Parameter groups: rate factor and weight decay of each parameter, by name and depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dnntrain.errors import ConfigError
from dnntrain.nn.weight_selection import find_undecayed_names, is_weight
from dnntrain.utils.suggest import find_nearest

#: A numbered part of a module's path: `3`, `encoder_layer_3`, `denselayer2`, `layer1`, `stage2`.
_NUMBERED = r"(?:\w*(?:layer|block|stage|transition)_?\d+|\d+)(?=\.|$)"

#: The path of a block, of which a stage may hold several.
_BLOCK = re.compile(rf"(?:[^.]+\.)*?{_NUMBERED}(?:\.(?:blocks\.)?{_NUMBERED})*")

NamedParameters = Iterable[tuple[str, nn.Parameter]]


class ParameterOptions(NamedTuple):
    """Optimizer options of one parameter.

    lr_scale      factor on the learning rate; 0: the parameter is not trained
    weight_decay  of this parameter
    vector        true: a bias, a gain or a position embedding, which maps no features to features
    hidden        true: the matrix of a linear or convolution layer other than the head, the last
                  linear layer
    """

    lr_scale: float
    weight_decay: float
    vector: bool
    hidden: bool


class GroupRule(NamedTuple):
    """Rule of `optim.param_groups` for the parameters whose names match `pattern`.

    None leaves the value unchanged.
    """

    pattern: str
    lr_scale: float | None
    weight_decay: float | None

    @classmethod
    def parse(cls, text: str) -> GroupRule:
        """Parse `PATTERN lr_scale=NUMBER weight_decay=NUMBER`; one number may be missing.

        Raises ValueError.
        """
        pattern, *assignments = text.split()
        numbers = dict(assignment.split("=") for assignment in assignments)
        if len(numbers) != len(assignments):
            raise ValueError(f"param_groups: {text!r} sets a number twice")
        values = {name: float(number) for name, number in numbers.items()}
        return cls(pattern, values.get("lr_scale"), values.get("weight_decay"))


def make_parameter_options(
    model: nn.Module,
    weight_decay: float,
    no_weight_decay: Sequence[str] = (),
    rules: Sequence[GroupRule] = (),
    layer_decay: float = 1.0,
    rate_factors: Mapping[str, float] = {},
) -> dict[str, ParameterOptions]:
    """Return the options of every parameter of the *whole* `model`, by name.

    Weights decay. Vectors do not, because decay of gains and biases only costs accuracy (He et al.,
    "Bag of tricks", 2019, section 3.1), nor do names that match a pattern of `no_weight_decay`, nor
    those that the model itself leaves out. The learning rate of the block d before the last is
    multiplied by layer_decay^d (Bao et al., "BEiT", 2022). `rules` are applied last; a later rule
    overrides an earlier one. Their lr_scale multiplies the factor of layer_decay, and that of
    `rate_factors`, which are by name.

    Raises ConfigError if a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for key, patterns in (("no_weight_decay", no_weight_decay), ("param_groups", [rule.pattern for rule in rules])):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise ConfigError(
                    f"optim.{key}: no parameter is called {pattern!r}; {_suggest_parameter(pattern, parameters)}"
                )
    depths, hidden = compute_model_depths(model), find_hidden_matrices(model)
    deepest = max(depths.values(), default=0)
    options_by_name, undecayed_names = {}, find_undecayed_names(model)
    undecayed_names |= {name for name in parameters if any(fnmatchcase(name, pattern) for pattern in no_weight_decay)}
    for name, parameter in parameters.items():
        vector = not is_weight(name, parameter)
        decay = 0.0 if vector or name in undecayed_names else weight_decay
        factor = layer_decay ** (deepest - depths[name]) * rate_factors.get(name, 1.0)
        options = ParameterOptions(factor, decay, vector, name in hidden)
        rule_lr_scale = 1.0
        for rule in rules:
            if fnmatchcase(name, rule.pattern):
                rule_lr_scale = rule_lr_scale if rule.lr_scale is None else rule.lr_scale
                decay = decay if rule.weight_decay is None else rule.weight_decay
        options_by_name[name] = options._replace(lr_scale=options.lr_scale * rule_lr_scale, weight_decay=decay)
    return options_by_name


def make_param_groups(
    named_parameters: NamedParameters, options_by_name: Mapping[str, ParameterOptions], lr: float
) -> list[dict[str, Any]]:
    """Return groups of named trainable parameters with the same options.

    A group has one lr_scale, weight decay and kind; its rate is `lr` times lr_scale. Shards on
    different device meshes are in different groups: fused and foreach kernels cannot mix them.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        options = options_by_name[name]
        if not parameter.requires_grad or options.lr_scale == 0:
            continue
        # A DTensor has a mesh, a plain tensor does not.
        mesh = getattr(parameter, "device_mesh", None)
        key = (options.lr_scale, options.weight_decay, options.vector, mesh)
        group = groups.setdefault(
            key,
            {
                "params": [],
                "lr": lr * options.lr_scale,
                "lr_scale": options.lr_scale,
                "weight_decay": options.weight_decay,
                "vector": options.vector,
                # Not every fused kernel of torch supports shards; the foreach kernels do.
                **({"fused": False, "foreach": True} if mesh is not None else {}),
            },
        )
        group["params"].append((name, parameter))
    return list(groups.values())


def compute_model_depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter's block; models of timm say it themselves."""
    group_matcher = getattr(model, "group_matcher", None)
    if not callable(group_matcher):
        return compute_block_depths(model.named_parameters())
    from timm.models import group_parameters

    depths: dict[str, int] = group_parameters(model, group_matcher(coarse=False), reverse=True)
    return depths


def compute_block_depths(named_parameters: NamedParameters) -> dict[str, int]:
    """Return the depth of each parameter's block, from 0, in the order of the modules.

    A block is the path of a repeated module: it ends at the first number, or at the number of a block
    within a numbered stage (`blocks.3`, `layer1.0`, `stages.0.8`, `layers.2.blocks.1`,
    `encoder.layers.encoder_layer_3`). Without a number it is the first part of the path (`stem`,
    `head`). Parameters of the model itself (position embeddings, class tokens) belong to block 0, and
    vectors outside of a numbered block (the last norm) to the block before them.
    """
    named_pairs = list(named_parameters)
    with_matrix = {_get_block_name(name) for name, parameter in named_pairs if is_weight(name, parameter)}
    block_depths: dict[str, int] = {}
    depths: dict[str, int] = {}
    depth = 0
    for name, parameter in named_pairs:
        block = _get_block_name(name)
        if block in with_matrix and block not in block_depths:
            block_depths[block] = len(block_depths)
        if block in with_matrix and (is_weight(name, parameter) or _BLOCK.match(block)):
            depth = block_depths[block]
        depths[name] = depth if "." in name else 0
    return depths


def find_hidden_matrices(model: nn.Module) -> set[str]:
    """Return the names of the weights of linear and convolution layers.

    The last linear layer is left out.
    """
    last_linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name not in last_linear
    }


def split_parameters(
    named_parameters: NamedParameters, is_first: Callable[[str], bool]
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Split parameters into (parameters whose name is chosen, the rest)."""
    named_pairs = list(named_parameters)
    return [item for item in named_pairs if is_first(item[0])], [item for item in named_pairs if not is_first(item[0])]


def _get_block_name(name: str) -> str:
    module = name.rpartition(".")[0]
    block = _BLOCK.match(module)
    return block.group() if block else module.partition(".")[0]


def _suggest_parameter(pattern: str, parameters: Mapping[str, nn.Parameter]) -> str:
    names = list(parameters)
    nearest_name = find_nearest(pattern, names)
    if nearest_name is not None:
        return f"did you mean {nearest_name!r}?"
    first_names = ", ".join(names[:8])
    return f"the parameters are {first_names}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
