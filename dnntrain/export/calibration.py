"""Derive the range of a quantized tensor from the values that it took in calibration.

The rules are those of `quant.observer`. Every runtime takes its ranges from here, so that an option
means the same everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Bins on each side of 0. The largest magnitude is in the upper half of them.
_NUM_BINS = 4096

#: Steps of a range, also on a processor that takes activations of 7 bits: so ranges are the same everywhere.
_NUM_STEPS = 255

#: Exponent of the least bin width, 2^-100.
_MIN_EXPONENT = -100

#: Candidates for an end of a range in one scan of the search.
_NUM_CANDIDATES = 64

#: Scans of both ends after the first scan.
_NUM_SCANS = 3


class ValueHistogram:
    """Counts of values in bins [k w, (k + 1) w).

    The width w is a power of two and doubles when a value does not fit: two bins become one, so
    counts stay exact, and do not depend on the order of batches. Values that are not finite are
    left out.
    """

    def __init__(self) -> None:
        self.smallest, self.largest = math.inf, -math.inf
        self.num_zeros = self.num_negative = self.num_positive = 0
        self._exponent = _MIN_EXPONENT
        self._counts = torch.zeros(2 * _NUM_BINS, dtype=torch.int64)

    @property
    def total(self) -> int:
        return self.num_zeros + self.num_negative + self.num_positive

    def add(self, values: Tensor) -> None:
        """Count the elements of `values`."""
        values = values.detach().flatten().float()
        values = values[values.isfinite()]
        if not len(values):
            return
        smallest, largest = (float(value) for value in torch.aminmax(values))
        self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)
        zeros, negative = int((values == 0).sum()), int((values < 0).sum())
        self.num_zeros += zeros
        self.num_negative += negative
        self.num_positive += len(values) - zeros - negative
        # frexp: |v| < 2^exponent, which is the end of the last bin.
        needed = math.frexp(max(-smallest, largest))[1] - int(math.log2(_NUM_BINS))
        while self._exponent < needed:
            self._double_width()
        places = torch.floor(values * 2.0**-self._exponent).long() + _NUM_BINS
        self._counts += torch.bincount(places, minlength=2 * _NUM_BINS)

    def _double_width(self) -> None:
        self._exponent += 1
        if self._counts.any():
            merged = self._counts.view(-1, 2).sum(1)
            self._counts = torch.zeros_like(self._counts)
            self._counts[_NUM_BINS // 2 : _NUM_BINS // 2 + _NUM_BINS] = merged

    def get_bins(self) -> tuple[Tensor, Tensor, float]:
        """Return left ends and counts of bins that are not empty, and their width; zeros are left out."""
        counts = self._counts.clone()
        counts[_NUM_BINS] -= self.num_zeros
        places = counts.nonzero()[:, 0]
        width = 2.0**self._exponent
        return (places - _NUM_BINS).double() * width, counts[places].double(), width


def choose_range(histogram: ValueHistogram, observer: str, percentile: float) -> tuple[float, float]:
    """Return (low, high) with low <= 0 <= high by the rule `observer`.

    minmax      the smallest and the largest value
    percentile  the range that keeps `percentile` % of all values
    histogram   the range with the least squared error of rounding to 8 bits

    Without a finite value it is (0, 0).
    """
    if not histogram.total:
        return 0.0, 0.0
    if observer == "percentile":
        return find_percentile_range(histogram, percentile)
    if observer == "histogram":
        return find_least_error_range(histogram)
    return min(histogram.smallest, 0.0), max(histogram.largest, 0.0)


def find_percentile_range(histogram: ValueHistogram, percentile: float) -> tuple[float, float]:
    """Return the range that leaves out `100 - percentile` % of all values.

    Each end leaves out half of these. A range holds 0; so if fewer values are on one side of 0, the
    other end leaves out the rest: of a ReLU's outputs, all are the largest.
    """
    left_out = histogram.total * (1 - percentile / 100)
    below = min(left_out / 2, histogram.num_negative)
    above = min(left_out - below, histogram.num_positive)
    below = min(left_out - above, histogram.num_negative)
    starts, counts, width = histogram.get_bins()
    negative = starts < 0
    below_starts, below_counts = -starts[negative].flip(0) - width, counts[negative].flip(0)
    low = -_find_end(below_starts, below_counts, width, -histogram.smallest, below)
    high = _find_end(starts[~negative], counts[~negative], width, histogram.largest, above)
    return low, high


def _find_end(starts: Tensor, counts: Tensor, width: float, largest: float, left_out: float) -> float:
    """Return the point above which are `left_out` values of bins [start, start + width), from 0 up."""
    if largest <= 0:
        return 0.0
    above = counts.flip(0).cumsum(0).flip(0)
    place = int((above > left_out).sum()) - 1
    if place < 0:
        return 0.0
    start, inside = float(starts[place]), float((above[place] - left_out) / counts[place])
    return start + (min(start + width, largest) - start) * inside


def find_least_error_range(histogram: ValueHistogram) -> tuple[float, float]:
    """Return the range with the least Σ (v - rounded v)² over all values.

    Both ends shrink together first, then each by itself in turn. A bin counts as its middle.
    """
    starts, counts, width = histogram.get_bins()
    if not len(starts):
        return 0.0, 0.0
    middles = starts + width / 2
    smallest, largest = min(histogram.smallest, 0.0), max(histogram.largest, 0.0)
    fractions = torch.arange(1, _NUM_CANDIDATES + 1, dtype=torch.float64) / _NUM_CANDIDATES

    def choose(lows: Tensor, highs: Tensor) -> tuple[float, float]:
        errors = compute_rounding_errors(middles, counts, lows, highs)
        # The last candidate is the widest: of equal errors it cuts least.
        place = len(errors) - 1 - int(errors.flip(0).argmin())
        return float(lows[place]), float(highs[place])

    low, high = choose(smallest * fractions, largest * fractions)
    for _ in range(_NUM_SCANS):
        previous = (low, high)
        if largest:
            low, high = choose(torch.full_like(fractions, low), largest * fractions)
        if smallest:
            low, high = choose(smallest * fractions, torch.full_like(fractions, high))
        if (low, high) == previous:
            break
    return low, high


def compute_rounding_errors(values: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
    """Return Σ count (v - rounded v)² for each range (low, high): [values], [ranges] → [ranges].

    Rounding is scale (clamp(round(v / scale) + zero, 0, 255) - zero) with scale = (high -
    low) / 255 and zero = round(-low / scale).
    """
    scales = ((highs - lows) / _NUM_STEPS).clamp_min(2.0**_MIN_EXPONENT)[:, None]
    zeros = (-lows[:, None] / scales).round()
    rounded = ((values / scales).round() + zeros).clamp(0, _NUM_STEPS).sub(zeros) * scales
    return ((values - rounded).square() * counts).sum(1)
