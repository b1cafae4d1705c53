"""Label the elements of tensors by the unit that would remove them.

An atom is a set of indices that can only be removed together. A label array has as many dimensions
as its tensor; a dimension of size 1 says that the label is the same all along it. Atom 0 is the
part of the network that is never removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


class Atoms:
    """Disjoint sets of indices, and the reasons why some of them must stay."""

    def __init__(self) -> None:
        self._parents = np.zeros(1, np.int64)
        self._reasons: dict[int, str] = {}

    def make(self, count: int) -> Labels:
        """Return `count` new atoms."""
        first = len(self._parents)
        atoms = np.arange(first, first + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, atoms])
        return atoms

    def find(self, labels: Labels) -> Labels:
        """Return the representative of each label."""
        roots = self._parents[labels]
        while True:
            higher = self._parents[roots]
            if (higher == roots).all():
                return roots
            roots = higher

    def join(self, left: Labels, right: Labels, reason: str) -> None:
        """Join the atoms at the same place of two arrays; what meets atom 0 is frozen."""
        pairs = np.stack(np.broadcast_arrays(self.find(left), self.find(right)), -1).reshape(-1, 2)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        for one, two in dict.fromkeys(map(tuple, pairs.tolist())):
            root_one, root_two = self._find_one(one), self._find_one(two)
            if root_one == root_two:
                continue
            if not root_one or not root_two:
                self._reasons.setdefault(root_one or root_two, reason)
                continue
            self._parents[root_two] = root_one
            if root_two in self._reasons:
                self._reasons.setdefault(root_one, self._reasons[root_two])

    def _find_one(self, label: int) -> int:
        while (parent := int(self._parents[label])) != label:
            label = parent
        return label

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keep the atoms in `labels`, because of `reason`."""
        for root in np.unique(self.find(labels)):
            if root:
                self._reasons.setdefault(int(root), reason)

    def get_reason(self, root: int) -> str | None:
        """Return why the atom of this representative must stay, or None if it may go."""
        return self._reasons.get(root)

    def merge_along(self, labels: Labels, axis: int, reason: str) -> Labels:
        """Join all atoms along an axis, and return the array without that axis' variation."""
        if labels.shape[axis] == 1:
            return labels
        first = np.take(labels, [0], axis)
        self.join(labels, first, reason)
        return self.simplify(first, reason)

    def simplify(self, labels: Labels, reason: str) -> Labels:
        """Return representatives, frozen ones as 0, with a size of 1 along axes without variation.

        A single atom that is the whole tensor is frozen.
        """
        roots = self.find(labels)
        frozen = [root for root in np.unique(roots) if int(root) in self._reasons]
        if frozen:
            roots = np.where(np.isin(roots, frozen), 0, roots)
        for axis in range(roots.ndim):
            first = np.take(roots, [0], axis)
            if roots.shape[axis] > 1 and (roots == first).all():
                roots = first
        if roots.size == 1 and roots.any():
            self.freeze(roots, reason)
            return np.zeros_like(roots)
        return roots


def get_varying_axes(labels: Labels) -> list[int]:
    """Return the axes along which the labels differ."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def reshape_labels(labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """Return the labels of a tensor of shape `old` after a reshape to `new`."""
    sizes: list[int] = []
    full = list(labels.shape)
    for old_axes, new_axes in factor_reshape(old, new):
        if all(labels.shape[axis] == 1 for axis in old_axes):
            sizes += [1] * len(new_axes)
            continue
        for axis in old_axes:
            full[axis] = old[axis]
        sizes += [new[axis] for axis in new_axes]
    return np.broadcast_to(labels, full).reshape(sizes)


def factor_reshape(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest runs of axes of `old` and of `new` that hold equally many elements."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_axes, new_axes, old_size, new_size = [], [], 1, 1
        if i < len(old):
            old_axes, old_size, i = [i], old[i], i + 1
        if j < len(new) and not (old_axes and old_size == 1 and new[j] != 1):
            new_axes, new_size, j = [j], new[j], j + 1
        while old_size != new_size:
            if old_size < new_size:
                old_axes.append(i)
                old_size, i = old_size * old[i], i + 1
            else:
                new_axes.append(j)
                new_size, j = new_size * new[j], j + 1
        runs.append((old_axes, new_axes))
    return runs
