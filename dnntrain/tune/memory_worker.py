"""Measure the peak memory of a line: `python -m dnntrain.tune.memory_worker FOLDER`. Only the search starts it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dnntrain.errors import ConfigError
from dnntrain.tune.lines import Line
from dnntrain.tune.speed_worker import answer_request, open_line
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.session import Session


def main() -> int:
    """Write the peak memory into the folder that is the argument."""
    return answer_request(measure_memory)


def measure_memory_on_ranks(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same as one of several ranks; a line that cannot run is named in the result."""
    try:
        return measure_memory(request, session.world)
    except ConfigError as error:
        return {"error": error.message}


def measure_memory(request: Mapping[str, Any], world: World | None = None) -> dict[str, Any]:
    """Make some steps of a line; return `peak_mb`, of the rank that needs the most.

    It is the peak of the GPU, or else of this process, which does nothing besides.
    """
    import torch

    from dnntrain.distributed.collectives import gather_tensors
    from dnntrain.utils.hardware import read_peak_bytes

    config = Line.from_json(request["line"]).decode(request["words"])
    line = open_line(config, keeps_callbacks=True, world=world or World(), is_timed=False)
    with closing(line):
        line.make_first_steps()
        peak_bytes = read_peak_bytes(line.device)
        peaks = gather_tensors(torch.tensor([peak_bytes]), "cpu")
    return {"peak_mb": round(max(map(int, peaks)) / 2**20, 1)}


if __name__ == "__main__":
    sys.exit(main())
