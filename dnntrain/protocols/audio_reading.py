"""How sound files become spectrograms: the same for training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class AudioReading:
    """Settings of a data set that decide how its sounds are read.

    sample_rate  samples per second; files of another rate are resampled
    seconds      length of a sound, which is cut out of the center of a longer one, or padded with zeros
    window       samples of a Hann window, and of its Fourier transform
    hop          samples from a window to the next
    n_mels       bands of the mel scale, from 0 to half the sample rate
    """

    sample_rate: int = 16000
    seconds: float = 1.0
    window: int = 400
    hop: int = 160
    n_mels: int = 64

    @property
    def samples(self) -> int:
        """Samples of a sound."""
        return max(1, round(self.seconds * self.sample_rate))

    @property
    def frames(self) -> int:
        """Columns of the spectrogram."""
        return 1 + self.samples // self.hop

    @classmethod
    def find(cls, data: object) -> AudioReading | None:
        """Return the reading that the options of a data set describe; None if they are not about sound."""
        names = [item.name for item in fields(cls)]
        if not isinstance(data, Mapping) or not all(name in data for name in names):
            return None
        values: dict[str, Any] = {name: data[name] for name in names}
        return cls(**values)

    def describe(self) -> str:
        """Return the steps from a file to the input of the model, for manifests."""
        return (
            f"the mean of the channels in [-1, 1] at {self.sample_rate} Hz; {self.samples} samples of the center, or "
            f"zeros around a shorter sound; |STFT|^2 with a periodic Hann window of {self.window}, hop {self.hop}, "
            f"{self.window // 2} zeros at both ends; {self.n_mels} triangular mel bands (HTK, peak 1) from 0 to "
            f"{self.sample_rate / 2:g} Hz; d = 10 log10(max(power, 1e-10)); "
            "byte = round(clip(255 + (d - max(max(d), -20)) * 255 / 80, 0, 255)); the highest band first; "
            "(byte / 255 - mean) / std"
        )
