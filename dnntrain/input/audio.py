"""Read a WAV file safely, and compute its spectrogram as an image of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import check_regular_file
from dnntrain.input.file_source import FileSource
from dnntrain.input.wav_file import UNKNOWN_SIZE, read_header
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.utils.rng import Key

if TYPE_CHECKING:
    from torch import Tensor

#: Suffixes of sound files, in lower case.
SOUND_SUFFIXES = frozenset([".wav", ".wave"])

#: Decibels between the loudest value and 0, and the level of digital silence.
RANGE_DB, FLOOR_DB = 80.0, -100.0

#: The longest sound; a file can claim hours in a few bytes.
_MAX_SECONDS = 3600

_REMOVE_HINT = "remove or replace the file, or set data.on_error=skip"


def read_sound(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Return the mean of the channels of a WAV file, float32 [samples] in [-1, 1], at `sample_rate`.

    PCM of 8, 16, 24 and 32 bits is read. Raises DataError, which names the file, for everything else.
    """
    status = check_regular_file(path)
    try:
        with path.open("rb") as stream:
            header = read_header(stream)
            present_bytes = status.st_size - stream.tell()
            if header.size_bytes == UNKNOWN_SIZE:  # written into a pipe: the rest of the file is samples
                header = replace(header, size_bytes=present_bytes)
            if header.frames > header.rate * _MAX_SECONDS:
                raise DataError(
                    f"{path}: {header.frames} samples at {header.rate} Hz; the limit is one hour", _REMOVE_HINT
                )
            claimed_bytes = header.frames * header.frame_bytes
            if claimed_bytes > present_bytes:
                raise DataError(
                    f"{path}: is cut off: it has {present_bytes // header.frame_bytes} of {header.frames} samples",
                    _REMOVE_HINT,
                )
            data = stream.read(claimed_bytes)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not a WAV file of PCM ({error})", _REMOVE_HINT) from None
    if not data:
        raise DataError(f"{path}: has no samples", _REMOVE_HINT)
    values = _decode_pcm(data, header.width, path).reshape(-1, header.channels).mean(axis=1)
    return resample(values, header.rate, sample_rate).astype(np.float32)


def _decode_pcm(data: bytes, width: int, path: Path) -> NDArray[np.float64]:
    """Return samples of `width` bytes as numbers in [-1, 1]; 8 bits are unsigned."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        padded = np.zeros((len(parts), 4), np.uint8)
        padded[:, 1:] = parts
        data, width = padded.tobytes(), 4
    if width in (2, 4):
        samples: NDArray[np.signedinteger[Any]] = np.frombuffer(data, f"<i{width}")
        return samples.astype(np.float64) / 2.0 ** (8 * width - 1)
    raise DataError(f"{path}: has samples of {8 * width} bits; 8, 16, 24 and 32 are read", _REMOVE_HINT)


def resample(values: NDArray[np.float64], rate: int, new_rate: int) -> NDArray[np.float64]:
    """Return the sound at another rate, by its Fourier transform: frequencies above half the rate are left out."""
    if rate == new_rate:
        return values
    count = max(1, round(len(values) * new_rate / rate))
    spectrum = np.fft.rfft(values)
    kept = np.zeros(count // 2 + 1, dtype=complex)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    result: NDArray[np.float64] = np.fft.irfft(kept, count) * (count / len(values))
    return result


def cut_sound(values: NDArray[np.float32], samples: int, place: float = 0.5) -> NDArray[np.float32]:
    """Return `samples` values: a part of a longer sound, or a shorter one between zeros.

    `place` in [0, 1] moves the part, or the sound, from the beginning to the end.
    """
    spare = len(values) - samples
    start = math.floor(place * (abs(spare) + 1)) if place < 1 else abs(spare)
    if place == 0.5:
        start = abs(spare) // 2
    if spare >= 0:
        return values[start : start + samples]
    return np.pad(values, (start, -spare - start))


@cache
def make_mel_bands(sample_rate: int, window: int, n_mels: int) -> NDArray[np.float32]:
    """Return triangles of peak 1, float32 [n_mels, window // 2 + 1], evenly spaced in 2595 log10(1 + f / 700)."""
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, n_mels + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / sample_rate)
    rising = (frequencies[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies[None]) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def compute_spectrogram(values: NDArray[np.float32], reading: AudioReading) -> Tensor:
    """Return the log-mel spectrogram of a sound, uint8 [1, n_mels, frames].

    The loudest value is 255, and 80 dB below it is 0; silence is 0 everywhere. The highest band is the
    first row.
    """
    import torch

    window = torch.hann_window(reading.window)
    transform = torch.stft(
        torch.from_numpy(np.ascontiguousarray(values)),
        reading.window,
        reading.hop,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = transform.real.square() + transform.imag.square()
    bands = torch.from_numpy(make_mel_bands(reading.sample_rate, reading.window, reading.n_mels)) @ power
    decibels = 10 * bands.clamp(min=10 ** (FLOOR_DB / 10)).log10()
    # Without the bound the loudest value of silence would be 255, as that of a noise.
    loudest = decibels.max().clamp(min=FLOOR_DB + RANGE_DB)
    scaled = 255 + (decibels - loudest) * (255 / RANGE_DB)
    return scaled.clamp(0, 255).round().to(torch.uint8).flip(0)[None]


def read_spectrogram(path: Path, reading: AudioReading, place: float = 0.5) -> Tensor:
    """Return the spectrogram of a file, uint8 [1, n_mels, frames]. Raises DataError, which names the file."""
    return compute_spectrogram(cut_sound(read_sound(path, reading.sample_rate), reading.samples, place), reading)


class SpectrogramSource(FileSource):
    """The spectrograms of the WAV files at `paths`."""

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int64],
        sound: AudioReading,
        keep_decoded: bool,
        skip_unreadable: bool,
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(paths, labels, (sound.n_mels, sound.frames), 1, keep_decoded, skip_unreadable, keys)
        self.sound = sound

    def decode(self, index: int) -> Tensor:
        return read_spectrogram(self.paths[index], self.sound)


class RandomSpectrogramSource(SpectrogramSource):
    """Spectrograms of a random part for training. Decoded ones therefore cannot be kept."""

    def read_for_training(self, index: int, key: Key, rng_index: int) -> Tensor:
        """Return the part that `key` and `rng_index` choose: uint8 [1, n_mels, frames]."""
        place = float(key.with_stream("sound crop").uniform(np.array([rng_index]))[0])
        return read_spectrogram(self.paths[index], self.sound, place)
