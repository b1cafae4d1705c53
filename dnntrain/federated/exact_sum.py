"""Add vectors so that neither order nor grouping changes a bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dnntrain.errors import DivergedError
from dnntrain.protocols.federation import MAX_COHORT

#: Terms are rounded to multiples of 2^-_LOW_BITS; the high word counts multiples of 2^-_HIGH_BITS.
_HIGH_BITS, _LOW_BITS = 20, 70

#: Sums below this magnitude fit into the high word. The low word holds 2^13 = `MAX_COHORT` terms.
MAX_SUM = 2.0**42
assert MAX_COHORT * 2 ** (_LOW_BITS - _HIGH_BITS - 1) < 2**63


class ExactSum:
    """The sum of vectors float64 [n] as two whole numbers for each entry.

    Integers add without rounding, so any order of terms, and any division of them among ranks, gives
    the same bits. A term is rounded once, to a multiple of 2^-70.
    """

    def __init__(self, size: int, device: str) -> None:
        self._high = torch.zeros(size, dtype=torch.int64, device=device)
        self._low = torch.zeros(size, dtype=torch.int64, device=device)

    def add(self, term: Tensor, share: float) -> None:
        """Add a vector float64 [n] of magnitude `share` * MAX_SUM at most; all shares add up to 1 or less.

        Raises DivergedError if it is larger, before the sum could overflow.
        """
        if len(term) and not float(term.abs().max()) <= share * MAX_SUM:
            raise DivergedError(
                "the weights of a client are too large for the exact sum of a round: training has diverged",
                "lower optim.lr, or add +reg=[grad_clip]",
            )
        high = (term * 2.0**_HIGH_BITS).round()
        self._high += high.long()
        self._low += ((term - high * 2.0**-_HIGH_BITS) * 2.0**_LOW_BITS).round().long()

    def reduce(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Add the sums of all ranks."""
        self._high, self._low = reduce(self._high), reduce(self._low)

    def value(self) -> Tensor:
        """Return the sum, float64 [n]."""
        return self._high.double() * 2.0**-_HIGH_BITS + self._low.double() * 2.0**-_LOW_BITS
