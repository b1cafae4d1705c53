"""Measure the loss along the training's own directions, beside a random one.

The saved checkpoints w_1 … w_k span the way of the training. The line leads from the first one to the
last one, and further. The plane has the two principal axes of w_i - w_k (Li et al., "Visualizing the
loss landscape of neural nets", NeurIPS 2018), on which the checkpoints are drawn. The random direction
has, in each filter, the norm of the filter's weights (the same paper), and is then as long as the line:
at the same distance from w_k, the training's direction shows a slope and the random one a valley wall.

Buffers, such as the statistics of batch norm, are mixed as the weights are along the training, within
the smallest and the largest saved value, and stay those of w_k along the random direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.checkpoint.checkpoint_folder import get_step, list_checkpoints
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.explain.similarity import pick_evenly
from dnntrain.explain.stability import draw_noise
from dnntrain.explain.subject import Subject
from dnntrain.protocols import Batch
from dnntrain.utils.rng import Key

#: Examples on which the loss is measured, and the most checkpoints that are read.
EXAMPLES = 256
MAX_CHECKPOINTS = 20

#: Places of a line, from the first checkpoint at -1 over the last one at 0 to as far beyond it.
LINE = tuple(round(-1 + place / 8, 3) for place in range(17))

#: Places of each side of the plane.
PLANE = 9


@dataclass(frozen=True)
class LossPlane:
    """The loss on the plane of the two principal axes of the training.

    x, y       the places along each axis: distances from the last checkpoint
    losses     [y, x]; NaN if the loss is not finite
    path       (x, y) of each checkpoint
    explained  share of the checkpoints' variance along each axis
    """

    x: list[float]
    y: list[float]
    losses: list[list[float]]
    path: list[tuple[float, float]]
    explained: tuple[float, float]


@dataclass(frozen=True)
class LossDirections:
    """The mean loss of examples near the last checkpoint.

    steps      of the checkpoints, the first one first
    distance   Euclidean distance of the weights of the first and the last checkpoint
    places     of the lines, in units of `distance`: -1 is the first checkpoint, 0 the last one
    training, random  the loss at the places
    plane      None with two checkpoints
    """

    steps: list[int]
    examples: int
    distance: float
    places: tuple[float, ...]
    training: list[float]
    random: list[float]
    plane: LossPlane | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "plane": None if self.plane is None else vars(self.plane)}


def find_checkpoints(run: Path) -> list[Path]:
    """Return at most MAX_CHECKPOINTS checkpoints of a run, the first one first.

    Raises ConfigError if there are fewer than two: they show no direction.
    """
    found = sorted(list_checkpoints(run / "checkpoints"), key=get_step)
    if len(found) < 2:
        raise ConfigError(
            f"--directions needs two checkpoints, and {run} has {len(found)}",
            "train with checkpoint.keep_last=20, or leave --directions out",
        )
    by_name = {path.name: path for path in found}
    return [by_name[name] for name in pick_evenly(list(by_name), MAX_CHECKPOINTS)]


def measure_directions(subject: Subject, checkpoints: Sequence[Path], batch: Batch, key: Key) -> LossDirections:
    """Return the loss along the way of the checkpoints and along a random direction.

    Raises CheckpointError if a checkpoint is damaged, or is of another network than the model.
    """
    states = [_read_weights(path, subject.model) for path in checkpoints]
    last = states[-1]
    names = [name for name, _ in subject.model.named_parameters() if last[name].is_floating_point()]
    gram = _multiply(states, names)
    distance = math.sqrt(max(0.0, float(gram[0, 0])))
    with _borrow_weights(subject.model):
        landscape = _Landscape(subject, batch, states)
        mixes = [[-place, *[0.0] * (len(states) - 1)] for place in LINE]
        training = [landscape.measure_mix(mix) for mix in mixes]
        direction = draw_direction(last, names, key)
        length = math.sqrt(sum(float(value.double().square().sum()) for value in direction.values()))
        random = [landscape.measure_shift(direction, place * distance / max(length, 1e-30)) for place in LINE]
        plane = _measure_plane(landscape, gram) if len(states) > 2 else None
    steps = [get_step(path) for path in checkpoints]
    return LossDirections(steps, len(batch), distance, LINE, training, random, plane)


def count_calls(checkpoints: int) -> int:
    """Return the calls of the model for one example."""
    return 2 * len(LINE) + (PLANE**2 if checkpoints > 2 else 0)


def find_axes(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two principal axes of differences d_i, from their Gram matrix [k, k].

    They are mixes [2, k] of the differences whose sums are unit vectors, the places [k, 2] of the
    differences on them, and the shares [2] of the variance. An axis without variance is 0.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    values, vectors = values.flip(0)[:2].clamp_min(0), vectors.flip(1)[:, :2]
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    lengths = torch.where(values > 1e-12 * gram.trace(), values.sqrt(), torch.inf)
    mixes = (vectors * signs / lengths).T
    return mixes, gram.double() @ mixes.T, values / gram.trace().double().clamp_min(1e-300)


def draw_direction(weights: Mapping[str, Tensor], names: Sequence[str], key: Key) -> dict[str, Tensor]:
    """Return a keyed Gaussian direction in which each filter has the norm of the filter's weights.

    It is 0 for vectors: biases and the weights of norms.
    """
    directions = {}
    for name in names:
        weight = weights[name].float()
        if weight.ndim < 2:
            continue
        noise = draw_noise(weight.shape, key.with_stream(f"{key.stream}/direction.{name}")).to(weight).flatten(1)
        norms = weight.flatten(1).norm(dim=1, keepdim=True)
        directions[name] = (noise * norms / noise.norm(dim=1, keepdim=True).clamp_min(1e-30)).view_as(weight)
    return directions


class _Landscape:
    """The loss of a batch for mixes of saved weights; the model's own weights are overwritten."""

    def __init__(self, subject: Subject, batch: Batch, states: Sequence[dict[str, Tensor]]) -> None:
        self._subject, self._batch, self._states = subject, batch, states
        self._tensors = subject.model.state_dict(keep_vars=True)
        self._parameters = {name for name, _ in subject.model.named_parameters()}

    def measure_mix(self, mix: Sequence[float]) -> float:
        """Return the loss at w_k + Σ mix_i (w_i - w_k)."""
        last = self._states[-1]
        for name, tensor in self._tensors.items():
            if not last[name].is_floating_point():
                self._write(tensor, last[name])
                continue
            saved = [state[name].float() for state in self._states]
            value = saved[-1] + sum(share * (item - saved[-1]) for share, item in zip(mix, saved, strict=True) if share)
            if name not in self._parameters:
                value = value.clamp(torch.stack(saved).amin(0), torch.stack(saved).amax(0))
            self._write(tensor, value)
        return self._compute_loss()

    def measure_shift(self, direction: Mapping[str, Tensor], length: float) -> float:
        """Return the loss at w_k + length · direction."""
        for name, tensor in self._tensors.items():
            value = self._states[-1][name]
            self._write(tensor, value + length * direction[name] if name in direction else value)
        return self._compute_loss()

    @torch.no_grad()
    def _write(self, tensor: Tensor, value: Tensor) -> None:
        tensor.copy_(value)

    @torch.no_grad()
    def _compute_loss(self) -> float:
        subject, batch = self._subject, self._batch
        task = subject.loaded.config.task
        outputs = subject.loaded.compute_outputs(batch.inputs).float()
        losses = task.compute_losses(outputs, batch).double()
        return float(losses.mean()) / task.get_units(subject.loaded.spec)


def _measure_plane(landscape: _Landscape, gram: Tensor) -> LossPlane:
    mixes, path, shares = find_axes(gram)
    axes = []
    for number in (0, 1):
        low, high = float(path[:, number].min()), float(path[:, number].max())
        margin = 0.25 * (high - low)
        axes.append(np.linspace(low - margin, high + margin, PLANE).tolist())
    losses = [[landscape.measure_mix((x * mixes[0] + y * mixes[1]).tolist()) for x in axes[0]] for y in axes[1]]
    places = [(row[0], row[1]) for row in path.tolist()]
    return LossPlane(axes[0], axes[1], losses, places, (float(shares[0]), float(shares[1])))


def _multiply(states: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> Tensor:
    """Return the Gram matrix [k, k] of the differences of the weights from the last ones."""
    gram = torch.zeros(len(states), len(states), dtype=torch.float64)
    for name in names:
        rows = torch.stack([state[name].flatten().double() for state in states])
        rows = rows - rows[-1:]
        gram += rows @ rows.T
    return gram


def _read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    states = read_checkpoint(path).states
    saved, tensors = states.get("model", {}), model.state_dict()
    if any(name not in saved or saved[name].shape != tensor.shape for name, tensor in tensors.items()):
        raise CheckpointError(
            f"{path} has weights of another network than the run's model, so it has no direction to it",
            "leave --directions out; a network that was cut, folded or wrapped has other weights than its training",
        )
    return {name: saved[name] for name in tensors}


@contextmanager
def _borrow_weights(model: nn.Module) -> Iterator[None]:
    """Restore the weights of the model after the body."""
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in model.state_dict(keep_vars=True).items():
                tensor.copy_(original[name])
