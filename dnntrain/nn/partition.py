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

    owns: tuple[str, ...]
    apply: Callable[[Tensor], Tensor]


def sections(model: nn.Module) -> list[Section]:
    """The model's sections; empty where it does not state any."""
    stated: Callable[[], Sequence[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]] | None
    stated = getattr(model, "sections", None)
    if stated is not None:
        return [Section(*section) for section in stated()]
    parts = [getattr(model, name, None) for name in ("features", "avgpool", "classifier")]
    return _of_classifier(*parts) if all(isinstance(part, nn.Module) for part in parts) else []  # type: ignore[arg-type]


def _of_classifier(features: nn.Module, pool: nn.Module, classifier: nn.Module) -> list[Section]:
    blocks = [Section((f"features.{number}",), block) for number, block in enumerate(features.children())]
    return [*blocks, Section(("classifier",), lambda inputs: classifier(pool(inputs).flatten(1)))]


def parallel_plan(model: nn.Module) -> Mapping[str, str] | None:
    """The tensor-parallel plan that the model states; None where it has none."""
    stated: Callable[[], Mapping[str, str]] | None = getattr(model, "tensor_parallel_plan", None)
    return None if stated is None else stated()


def divided_sizes(model: nn.Module) -> tuple[tuple[str, int], ...]:
    """(module, number) pairs of the plan: numbers that the degree must divide. Empty where there is no plan."""
    sizes = []
    for name, how in (parallel_plan(model) or {}).items():
        module = model.get_submodule(name)
        if how.startswith("columns"):
            units: int | None = getattr(module, "parallel_units", None)
            sizes.append((name, units or len(module.weight) // stacked(how)))  # type: ignore[arg-type]
        elif how == "features" and isinstance(module, nn.GroupNorm):
            sizes.append((name, module.num_groups))
    return tuple(sizes)


def stacked(how: str) -> int:
    """Into how many stacked parts the outputs of `columns/N` fall."""
    return int(how.partition("/")[2] or 1)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: modules with inner modules of their own and parameters, that stand in a list or a sequence."""
    units: list[nn.Module] = []
    for holder in model.modules():
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            units += [
                block
                for block in holder.children()
                if not isinstance(block, nn.Sequential | nn.ModuleList)
                and any(True for _ in block.children())
                and any(True for _ in block.parameters())
            ]
    inner = {id(module) for unit in units for module in unit.modules() if module is not unit}
    return [unit for unit in units if id(unit) not in inner]
