"""Counter-based random numbers: every choice is a pure function of (seed, stream, epoch, index).

`mix` is the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
No generator state exists, so the numbers do not depend on how many were drawn before, on the number of ranks or of workers.
All numbers are made by numpy on the host; they are small (a few per example), and so the same on every device.
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
    """SplitMix64's finaliser: a bijection of 64-bit words, [n] → [n]."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def make_rng_index(index: Index, copy: Index) -> Index:
    """What random choices about the copy `copy` [n] of each example of `index` [n] are keyed by: of copy 0, the example's own number."""
    return index + (copy << _COPY_BITS)


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name, the same on every machine and Python."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Key:
    """One stream of random numbers in one epoch. `stream` names the use: "shuffle", "crop", "mixup" …"""

    seed: int
    stream: str = ""
    epoch: int = 0

    def with_stream(self, stream: str) -> Key:
        """The same seed and epoch, another stream."""
        return Key(self.seed, stream, self.epoch)

    def with_epoch(self, epoch: int) -> Key:
        """The same stream in another epoch."""
        return Key(self.seed, self.stream, epoch)

    def bits(self, index: Index, draw: int = 0) -> NDArray[np.uint64]:
        """64 random bits for each entry of `index` [n]; `draw` numbers the choices made for one index. Returns [n]."""
        base = np.uint64(derive_seed(self.seed, self.stream, self.epoch) & _MASK)
        with np.errstate(over="ignore"):
            counter = index.astype(np.uint64) * _GOLDEN + np.uint64(draw) * _STEP
            return mix_bits(mix_bits(counter + base) + base)

    def uniform(self, index: Index, draw: int = 0) -> NDArray[np.float64]:
        """Uniform in [0, 1), 53 bits, one for each entry of `index`."""
        return (self.bits(index, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, index: Index, bound: int, draw: int = 0) -> Index:
        """Uniform whole numbers in [0, bound), one for each entry of `index`."""
        return np.minimum((self.uniform(index, draw) * bound).astype(np.int64), bound - 1)

    def permutation(self, index: Index) -> Index:
        """`index` in an order that depends on each entry's own number only (stable sort by its random bits)."""
        return index[np.argsort(self.bits(index), kind="stable")]
