"""Share the maps of examples among the ranks that torchrun started.

Every rank loads the whole model and makes the maps of some batches of examples. The main rank gets
them, and makes all other parts. The batches are those of one process and all draws are keyed, so the
page is the same on any number of ranks. Bytes travel through the store of the rendezvous, as
safetensors: nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from dnntrain.distributed.failure import Failure
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.explain.insertion import CurveSet
from dnntrain.explain.map_checks import MapMeasurements
from dnntrain.explain.map_set import MapSet
from dnntrain.explain.method import Aim
from dnntrain.explain.randomization import Randomization
from dnntrain.utils.world import World

#: Seconds that the main rank waits for a batch: a rank that fails ends the wait at once.
_TIMEOUT_S = 86400.0


@dataclass(frozen=True)
class MapShare:
    """The ranks that make maps together; by default one process."""

    rendezvous: Rendezvous | None = None
    world: World = field(default_factory=World)

    def make_parts(self, batches: Sequence[Tensor], make_part: Callable[[int], MapSet]) -> list[MapSet] | None:
        """Return the maps of all batches on the main rank, and None on others.

        `make_part` gets the number of a batch. Rank r makes every batch r, r + size, …
        """
        if self.rendezvous is None:
            return [make_part(number) for number in range(len(batches))]
        mine = {number: make_part(number) for number in range(self.world.rank, len(batches), self.world.size)}
        if not self.world.is_main:
            for number, part in mine.items():
                self.rendezvous.put(f"maps/{number}", encode_maps(part))
            return None
        return [
            mine[number]
            if number in mine
            else decode_maps(self.rendezvous.get(f"maps/{number}", _TIMEOUT_S), batches[number])
            for number in range(len(batches))
        ]

    def run_on_main(self, name: str, body: Callable[[], object]) -> None:
        """Run `body` on the main rank while the others wait; if it fails, all raise its error."""
        if self.rendezvous is None:
            body()
        else:
            self.rendezvous.run_on_all_ranks(name, body if self.world.is_main else lambda: None)

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """Raise ConfigError on every rank if the ranks differ in `facts`."""
        if self.rendezvous is not None:
            self.rendezvous.check_agreement("explained model", facts)


@contextmanager
def join_map_share(world: World) -> Iterator[MapShare]:
    """Meet the other ranks. If the body fails on one of them, the others end with its error."""
    if world.size == 1:
        yield MapShare()
        return
    rendezvous = Rendezvous.join(world)
    try:
        yield MapShare(rendezvous, world)
    except BaseException as error:
        rendezvous.report_failure(Failure.from_error(error, world.rank))
        raise
    finally:
        rendezvous.leave()


def encode_maps(maps: MapSet) -> bytes:
    """Return maps and their measurements, without the inputs, as a safetensors file."""
    curves, randomization = maps.measured.curves, maps.measured.randomization
    tensors = {
        "outputs": maps.outputs,
        "aim.outputs": maps.aim.outputs,
        "aim.signs": maps.aim.signs,
        "maps": maps.maps,
        "stability": maps.measured.stability,
    }
    for kind in ("insertion", "deletion", "random_areas"):
        tensors |= {f"{kind}.{name}": value for name, value in vars(curves)[kind].items()}
    layers: list[str] | None = None
    if randomization is not None:
        layers = list(randomization.layers)
        tensors |= {"correlations": randomization.correlations, "entropies": randomization.entropies}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    plain["layers"] = torch.frombuffer(bytearray(json.dumps(layers).encode()), dtype=torch.uint8)
    return save(plain)


def decode_maps(data: bytes, inputs: Tensor) -> MapSet:
    """Return the maps of `inputs` from the bytes of `encode_maps`, on the device of the inputs."""
    tensors = load(data)
    fields: dict[str, dict[str, Tensor]] = {"insertion": {}, "deletion": {}, "random_areas": {}}
    for name, value in tensors.items():
        kind, _, key = name.partition(".")
        if kind in fields:
            fields[kind][key] = value
    layers = json.loads(tensors["layers"].numpy().tobytes())
    randomization = (
        None if layers is None else Randomization(tuple(layers), tensors["correlations"], tensors["entropies"])
    )
    placed = {name: tensors[name].to(inputs.device) for name in ("outputs", "aim.outputs", "aim.signs", "maps")}
    return MapSet(
        inputs,
        placed["outputs"],
        Aim(placed["aim.outputs"], placed["aim.signs"]),
        placed["maps"],
        MapMeasurements(CurveSet(**fields), tensors["stability"], randomization),
    )
