"""Read how a model may be partitioned, without the libraries of parallelism.

A model that supports tensor parallelism has `tensor_parallel_plan()`: {name of an inner module: its
division}.

- `columns`: a linear or convolution layer divided by outputs; its input is full, its output is this
  rank's share of the features.
- `columns/3`: the same for outputs that are 3 stacked blocks (query, key, value), each of which is
  divided.
- `rows`: divided by inputs; its input is this rank's share, the partial products are summed over
  the ranks.
- `features`: a normalization or other layer over the divided features, divided with them.
- `vocabulary`: the last layer of a language model, divided by tokens if the degree divides their
  number. The loss reads the shards, or the layer gathers the logits.
- `positions`: a normalization or dropout of each position of a text by itself. With
  `parallel.sequence=true` it reads the positions of this rank; otherwise it stays whole.

A model that supports pipelines has `sections()`: its forward pass as consecutive sections. Each has
the names of the modules and parameters that it owns, and its function Tensor → Tensor. For
torchvision's form (features, avgpool, classifier) the sections are derived.

Blocks are found in every model. FSDP gathers the weights of a block together; its activations may
be recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Section(NamedTuple):
    """A part of a forward pass: names of modules and parameters, and a function."""

    owned_names: tuple[str, ...]
    apply: Callable[[Tensor], Tensor]


def get_sections(model: nn.Module) -> list[Section]:
    """Return the model's sections; empty if it does not declare any."""
    model_sections: Callable[[], Sequence[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]] | None
    model_sections = getattr(model, "sections", None)
    if model_sections is not None:
        return [Section(*section) for section in model_sections()]
    modules = [getattr(model, name, None) for name in ("features", "avgpool", "classifier")]
    if not all(isinstance(part, nn.Module) for part in modules):
        return []
    return _split_classifier(*modules)  # type: ignore[arg-type]


def _split_classifier(features: nn.Module, pool: nn.Module, classifier: nn.Module) -> list[Section]:
    blocks = [Section((f"features.{number}",), block) for number, block in enumerate(features.children())]
    return [*blocks, Section(("classifier",), lambda inputs: classifier(pool(inputs).flatten(1)))]


def get_parallel_plan(model: nn.Module, degree: int = 1, sequence: bool = False) -> Mapping[str, str] | None:
    """Return the model's tensor-parallel plan for `degree` ranks, or None if it does not have one.

    It omits layers inside removed blocks, and a vocabulary that `degree` does not divide. It has layers
    over positions only if ranks share the `sequence`.
    """
    make_plan: Callable[[], Mapping[str, str]] | None = getattr(model, "tensor_parallel_plan", None)
    if make_plan is None:
        return None
    removed = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Identity))
    return {
        name: division
        for name, division in make_plan().items()
        if not name.startswith(removed)
        and (division != "vocabulary" or len(model.get_parameter(f"{name}.weight")) % degree == 0)
        and (division != "positions" or sequence)
    }


def supports_shared_sequence(model: nn.Module) -> bool:
    """Return whether ranks can share the positions of the model's texts between its layers."""
    return "positions" in (get_parallel_plan(model, sequence=True) or {}).values()


def get_divisible_sizes(model: nn.Module) -> tuple[tuple[str, int], ...]:
    """Return (module, number) pairs of the plan; the degree must divide each number.

    The result is empty without a plan.
    """
    sizes = []
    for name, division in (get_parallel_plan(model) or {}).items():
        module = model.get_submodule(name)
        if division.startswith("columns"):
            units: int | None = getattr(module, "parallel_units", None)
            stacked_outputs = len(module.weight)  # type: ignore[arg-type]
            sizes.append((name, units or stacked_outputs // count_stacked_outputs(division)))
        elif division == "features" and isinstance(module, nn.GroupNorm):
            sizes.append((name, module.num_groups))
    return tuple(sizes)


def count_stacked_outputs(division: str) -> int:
    """Return the number of stacked blocks in the outputs of `columns/N`."""
    return int(division.partition("/")[2] or 1)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model.

    Blocks are modules in a list or sequence that have parameters and inner modules of their own.
    """
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
