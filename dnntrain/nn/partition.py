"""How a model may be divided: what it states of itself, read without the libraries of parallelism.

A model that tensor parallelism can divide has `tensor_parallel_plan()`: {name of an inner module: how it is divided}.

- `columns`: a linear or convolution layer divided by outputs; its input is whole, its output is this rank's part of the features.
- `columns/3`: the same where the outputs are 3 stacked parts (query, key, value), each of which is divided.
- `rows`: divided by inputs; its input is this rank's part, the partial products are summed over the ranks.
- `features`: a normalisation or other layer over the divided features, divided with them.

A model that a pipeline can cut has `sections()`: its forward pass as consecutive sections, each with the names of the modules and
parameters that it owns, and its function Tensor → Tensor. For torchvision's form (features, avgpool, classifier) they are worked out.

Blocks, whose weights FSDP gathers together and whose activations may be computed anew, are worked out for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Section(NamedTuple):
    """A part of a forward pass: what it owns, as names of modules and parameters, and its function Tensor → Tensor."""

    owned_names: tuple[str, ...]
    apply: Callable[[Tensor], Tensor]


def get_sections(model: nn.Module) -> list[Section]:
    """The model's sections; empty where it does not state any."""
    model_sections: Callable[[], Sequence[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]] | None
    model_sections = getattr(model, "sections", None)
    if model_sections is not None:
        return [Section(*section) for section in model_sections()]
    modules = [getattr(model, name, None) for name in ("features", "avgpool", "classifier")]
    return _split_classifier(*modules) if all(isinstance(part, nn.Module) for part in modules) else []  # type: ignore[arg-type]


def _split_classifier(features: nn.Module, pool: nn.Module, classifier: nn.Module) -> list[Section]:
    blocks = [Section((f"features.{number}",), block) for number, block in enumerate(features.children())]
    return [*blocks, Section(("classifier",), lambda inputs: classifier(pool(inputs).flatten(1)))]


def get_parallel_plan(model: nn.Module) -> Mapping[str, str] | None:
    """The tensor-parallel plan that the model states; None where it has none."""
    make_plan: Callable[[], Mapping[str, str]] | None = getattr(model, "tensor_parallel_plan", None)
    return None if make_plan is None else make_plan()


def get_divisible_sizes(model: nn.Module) -> tuple[tuple[str, int], ...]:
    """(module, number) pairs of the plan: numbers that the degree must divide. Empty where there is no plan."""
    sizes = []
    for name, division in (get_parallel_plan(model) or {}).items():
        module = model.get_submodule(name)
        if division.startswith("columns"):
            units: int | None = getattr(module, "parallel_units", None)
            sizes.append((name, units or len(module.weight) // count_stacked_outputs(division)))  # type: ignore[arg-type]
        elif division == "features" and isinstance(module, nn.GroupNorm):
            sizes.append((name, module.num_groups))
    return tuple(sizes)


def count_stacked_outputs(division: str) -> int:
    """Into how many stacked parts the outputs of `columns/N` fall."""
    return int(division.partition("/")[2] or 1)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: modules with inner modules of their own and parameters, that stand in a list or a sequence."""
    candidates: list[nn.Module] = []
    for container in model.modules():
        if isinstance(container, nn.Sequential | nn.ModuleList):
            candidates += [
                block
                for block in container.children()
                if not isinstance(block, nn.Sequential | nn.ModuleList)
                and any(True for _ in block.children())
                and any(True for _ in block.parameters())
            ]
    inner = {id(module) for unit in candidates for module in unit.modules() if module is not unit}
    return [unit for unit in candidates if id(unit) not in inner]
