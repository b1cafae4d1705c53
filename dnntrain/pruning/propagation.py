"""The labels of parameters and tensors while they pass through a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnntrain.pruning.labels import Atoms, Labels


@dataclass(frozen=True)
class Activation:
    """A tensor in the graph: its labels and its shape."""

    labels: Labels
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer, with its axes in the order `axes`; -1 is an axis along which it is repeated."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]


class Propagation:
    """The labels so far: of every parameter's axes and of every tensor of the graph."""

    def __init__(self) -> None:
        self.atoms = Atoms()
        self.axes: dict[tuple[str, int], Labels] = {}
        self.tensors: list[Activation] = []
        self.unknown: dict[str, int] = {}

    def get_axis(self, parameter: Parameter, axis: int) -> Labels:
        """Return the atoms along an axis of a parameter, in the order in which the graph sees it."""
        axis = parameter.axes[axis]
        key = (parameter.name, axis)
        if key not in self.axes:
            size = parameter.shape[axis]
            self.axes[key] = self.atoms.make(size) if size > 1 else np.zeros(1, np.int64)
        return self.axes[key]

    def as_activation(self, value: Any, reason: str) -> Activation:
        """Return a parameter as an activation that can be cut along its last axis alone."""
        if isinstance(value, Activation):
            return value
        shape = tuple(1 if axis < 0 else value.shape[axis] for axis in value.axes)
        large = [axis for axis, size in enumerate(shape) if size > 1]
        sizes = [1] * len(shape)
        if not large:
            return Activation(np.zeros(sizes, np.int64), shape)
        last = max(large, key=lambda axis: value.axes[axis])
        for axis in large:
            if axis != last:
                self.atoms.freeze(self.get_axis(value, axis), f"{reason} uses {value.name} as a whole")
        sizes[last] = shape[last]
        return Activation(self.get_axis(value, last).reshape(sizes), shape)

    def finish(self, labels: Labels, shape: Sequence[int], reason: str) -> Activation:
        """Return the result of an operator."""
        activation = Activation(self.atoms.simplify(labels, reason), tuple(shape))
        self.tensors.append(activation)
        return activation
