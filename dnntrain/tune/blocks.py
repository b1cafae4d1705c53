"""Choose how many steps are timed together: steps may be fast, slow, or wait for many batches at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dnntrain.errors import ConfigError
from dnntrain.tune.speed_settings import is_read_once
from dnntrain.utils.world import read_local_size

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: First steps of a measurement, in which kernels are chosen and memory is allocated; fewer if they take longer than
#: so many seconds.
FIRST_STEPS, FEWEST_FIRST_STEPS, _FIRST_STEPS_S = 8, 3, 4.0
#: Seconds of a block of steps, and of one with steps that wait.
BLOCK_S, _LONG_BLOCK_S = 0.2, 1.0
#: A step waits if it takes so many times the mean; a single one only if it takes more than this share of the time.
_WAIT_FACTOR, _WAIT_SHARE = 2.0, 0.5
#: Blocks with waits hold so many of them, unless they would be long.
_WAITS = 4
#: Seconds for which the examples that a run keeps are read before its steps are measured.
_READING_S = 60.0


def agree(number: float) -> int:
    """Return the whole number of the main rank on all ranks; each rank has its own clock."""
    import torch

    from dnntrain.distributed.collectives import gather_tensors

    return int(gather_tensors(torch.tensor([int(number)]), "cpu")[0])


def fill_cache_of_run(session: Session, must_be_full: bool = True) -> None:
    """Read the training examples that a run of several epochs keeps in memory: later epochs are to be measured.

    All ranks call it, and each rank of a machine reads a part. Raises ConfigError on all of them if that
    takes too long and the cache `must_be_full`: some steps would read files, and the others would not.
    """
    from dnntrain.distributed.collectives import reduce_any
    from dnntrain.input.decoded_cache import fill_cache
    from dnntrain.training.data import open_shared_cache

    if agree(is_read_once(session)):
        world, source = session.world, session.data.dataset.train
        open_shared_cache(session.plan, source, world, session.device)
        num_local_ranks = read_local_size()
        part = slice(world.local_rank, None, num_local_ranks) if num_local_ranks else slice(None)
        is_full = fill_cache(source, session.data.train[part], _READING_S)
        # No rank continues before all have read.
        if reduce_any(not is_full, session.device) and must_be_full:
            raise ConfigError(
                f"the training examples, which this run keeps in memory, take more than {_READING_S:.0f} s to read",
                "measure a part of them with train.max_examples=N, or the first epoch with data.pipeline=streaming",
            )


def make_first_steps(run: Callable[[int], float], most: int, fewest: int = FEWEST_FIRST_STEPS) -> list[float]:
    """Make steps with `run` and return the seconds of each: `most`, or fewer if they are slow."""
    steps_s: list[float] = []
    while len(steps_s) < most:
        steps_s.append(run(1))
        is_late = sum(steps_s) > _FIRST_STEPS_S
        if len(steps_s) >= fewest and agree(is_late):
            break
    return steps_s


def compute_block_length(steps_s: Sequence[float]) -> int:
    """Return the number of steps that take about 0.2 s, or longer if some wait for many batches at once.

    Several slow readers deliver their batches together, and resident data is prepared for many steps. A
    block must have its share of the steps that wait: as many as lie from one to the next, up to four
    times while that takes less than a second. One slow step among many fast ones does not count.
    """
    step_s = max(statistics.fmean(steps_s), 1e-6)
    waits = [value for value in steps_s if value > _WAIT_FACTOR * step_s]
    length = max(1, round(BLOCK_S / step_s))
    if not waits or (len(waits) == 1 and waits[0] < _WAIT_SHARE * sum(steps_s)):
        return length
    distance = len(steps_s) / len(waits)
    repetitions = min(_WAITS, max(1, round(_LONG_BLOCK_S / (distance * step_s))))
    return max(length, math.ceil(distance * repetitions))
