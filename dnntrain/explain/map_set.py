"""Hold maps with their measurements, select some of them, and join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dnntrain.explain.insertion import CurveSet
from dnntrain.explain.map_checks import MapMeasurements, select_rows
from dnntrain.explain.method import Aim


@dataclass(frozen=True)
class MapSet:
    """The maps of examples and their measurements, in one order.

    inputs    [n, channels, height, width]; tokens [n, length] of texts
    outputs   [n, k], of the model
    maps      [n, height, width]; [n, 1, length] of texts
    """

    inputs: Tensor
    outputs: Tensor
    aim: Aim
    maps: Tensor
    measured: MapMeasurements


def select_maps(maps: MapSet, rows: list[int]) -> MapSet:
    """Return some of the maps."""
    index = torch.tensor(rows, dtype=torch.long, device=maps.maps.device)
    return MapSet(
        maps.inputs[index],
        maps.outputs[index],
        maps.aim.select(index),
        maps.maps[index],
        select_rows(maps.measured, rows),
    )


def join_maps(parts: Sequence[MapSet]) -> MapSet:
    """Return the maps of all parts."""
    curves = [part.measured.curves for part in parts]
    randomizations = [part.measured.randomization for part in parts]
    first = randomizations[0]
    randomization = None
    if first is not None:
        kept = [item for item in randomizations if item is not None]
        randomization = type(first)(
            first.layers,
            torch.cat([item.correlations for item in kept], 1),
            torch.cat([item.entropies for item in kept], 1),
        )
    joined = CurveSet(
        *(
            {name: torch.cat([vars(curve)[field][name] for curve in curves]) for name in vars(curves[0])[field]}
            for field in ("insertion", "deletion", "random_areas")
        )
    )
    return MapSet(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.outputs for part in parts]),
        Aim(torch.cat([part.aim.outputs for part in parts]), torch.cat([part.aim.signs for part in parts])),
        torch.cat([part.maps for part in parts]),
        MapMeasurements(joined, torch.cat([part.measured.stability for part in parts]), randomization),
    )
