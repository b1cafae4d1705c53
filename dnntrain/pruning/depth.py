"""Find the blocks of a network that can be left out: their inputs and outputs have one shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.nn.partition import find_blocks
from dnntrain.pruning.widths import Widths


@torch.no_grad()
def measure_influence(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Return 1 - cos(input, output) of each block whose input and output have one shape.

    The cosine is the mean over examples. Blocks that change little have a small influence (Men et
    al., "ShortGPT", 2024).
    """
    names = {id(module): name for name, module in model.named_modules()}
    blocks = {names[id(block)]: block for block in find_blocks(model) if id(block) in names}
    sums: dict[str, list[float]] = {}
    unusable: set[str] = set()

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) != 1 or not isinstance(output, Tensor) or output.shape != inputs[0].shape:
            unusable.add(name)
            return
        cosine = torch.cosine_similarity(inputs[0].flatten(1).double(), output.flatten(1).double(), 1)
        sums.setdefault(name, []).extend((1 - cosine).tolist())

    handles = [block.register_forward_hook(partial(record, name)) for name, block in blocks.items()]
    try:
        model.eval()
        for inputs in batches:
            # A block in place (relu_) would change its own input, so the input is kept by a copy.
            model(inputs.clone())
    finally:
        for handle in handles:
            handle.remove()
    return {name: sum(values) / len(values) for name, values in sums.items() if name not in unusable}


def drop_blocks(widths: Widths, names: Sequence[str]) -> Widths:
    """Return the widths of the network without the blocks `names` too."""

    def is_inside(name: str) -> bool:
        return any(name == block or name.startswith(f"{block}.") for block in names)

    return replace(
        widths,
        shapes={name: shape for name, shape in widths.shapes.items() if not is_inside(name)},
        attributes={name: values for name, values in widths.attributes.items() if not is_inside(name)},
        dropped=(*(name for name in widths.dropped if not is_inside(name)), *names),
    )


def drop_state(state: Any, names: Sequence[str]) -> Any:
    """Return a saved state without the entries of tensors inside the modules `names`."""
    if not isinstance(state, dict):
        return state
    prefixes = tuple(f"{name}." for name in names)
    return {key: drop_state(value, names) for key, value in state.items() if not str(key).startswith(prefixes)}
