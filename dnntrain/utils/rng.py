"""Draw random numbers as pure functions of (seed, stream, epoch, index).

`mix_bits` is the finalizer of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). There is no generator state, so the numbers do not depend on earlier
draws, on the number of ranks or of workers. numpy computes all numbers on the host. They are few
per example, and the same for every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xD1B54A32D192ED03)
_MASK = 0xFFFFFFFFFFFFFFFF

#: No data set has 2^40 examples.
_COPY_BITS = 40

Index = NDArray[np.int64]


def mix_bits(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64, a bijection of 64-bit words: [n] → [n]."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def make_rng_index(index: Index, copy: Index) -> Index:
    """Return the keys for random choices about copies of examples.

    For copy `copy` [n] of the examples `index` [n]. The key of copy 0 is the index itself.
    """
    return index + (copy << _COPY_BITS)


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed from `seed` and the names.

    It is the same on every machine and Python.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Key:
    """One stream of random numbers in one epoch.

    `stream` names the use: "shuffle", "crop", "mixup" …
    """

    seed: int
    stream: str = ""
    epoch: int = 0

    def with_stream(self, stream: str) -> Key:
        """Return the key of another stream with the same seed and epoch."""
        return Key(self.seed, stream, self.epoch)

    def with_epoch(self, epoch: int) -> Key:
        """Return the key of the same stream in another epoch."""
        return Key(self.seed, self.stream, epoch)

    def bits(self, index: Index, draw: int = 0) -> NDArray[np.uint64]:
        """Return 64 random bits for each entry of `index` [n].

        `draw` numbers the choices made for one index.
        """
        base = np.uint64(derive_seed(self.seed, self.stream, self.epoch) & _MASK)
        with np.errstate(over="ignore"):
            counter = index.astype(np.uint64) * _GOLDEN + np.uint64(draw) * _STEP
            return mix_bits(mix_bits(counter + base) + base)

    def uniform(self, index: Index, draw: int = 0) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1) with 53 bits, one for each entry of `index`."""
        return (self.bits(index, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, index: Index, bound: int, draw: int = 0) -> Index:
        """Return uniform integers in [0, bound), one for each entry of `index`."""
        return np.minimum((self.uniform(index, draw) * bound).astype(np.int64), bound - 1)

    def permutation(self, index: Index) -> Index:
        """Return `index` sorted by the random bits of each entry (stable sort)."""
        return index[np.argsort(self.bits(index), kind="stable")]
