"""Read the header and the samples of a WAV file: PCM, also in the extensible format of recorders."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

#: The tag of PCM, and that of a longer header whose GUID says the format.
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")

#: The size that a program claims which writes into a pipe and does not know the length.
UNKNOWN_SIZE = 0xFFFFFFFF

#: Bytes of the header that are read: those of the extensible format.
_HEADER_BYTES = 40


@dataclass(frozen=True)
class WavHeader:
    """The form of the samples of a file.

    channels    channels of a frame
    width       bytes of a sample
    rate        frames a second, Hz
    size_bytes  bytes of all frames, as the file claims
    """

    channels: int
    width: int
    rate: int
    size_bytes: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.width

    @property
    def frames(self) -> int:
        return self.size_bytes // self.frame_bytes


def read_header(stream: BinaryIO) -> WavHeader:
    """Return the header, and leave `stream` at the first sample.

    Raises ValueError, which says why, if it is not a WAV file of PCM, and OSError.
    """
    riff, _, kind = struct.unpack("<4sL4s", _read_exactly(stream, 12))
    if riff != b"RIFF" or kind != b"WAVE":
        raise ValueError("it does not begin with RIFF and WAVE")
    form: tuple[int, int, int] | None = None
    while True:
        name, size = struct.unpack("<4sL", _read_exactly(stream, 8))
        if name == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            return WavHeader(*form, size)
        skipped = size + size % 2
        if name == b"fmt ":
            content = _read_exactly(stream, min(size, _HEADER_BYTES))
            form = _read_format(content)
            skipped -= len(content)
        stream.seek(skipped, 1)


def _read_format(content: bytes) -> tuple[int, int, int]:
    """Return channels, bytes of a sample, and the rate. Raises ValueError if the samples are not PCM."""
    if len(content) < 16:
        raise ValueError("its format is cut off")
    tag, channels, rate, _, _, bits = struct.unpack("<HHLLHH", content[:16])
    if tag == _EXTENSIBLE:
        if len(content) < _HEADER_BYTES:
            raise ValueError("its format is cut off")
        if content[24:40] != _PCM_GUID:
            raise ValueError(f"format {int.from_bytes(content[24:26], 'little')}")
    elif tag != _PCM:
        raise ValueError(f"format {tag}")
    width = (bits + 7) // 8
    if not (channels and width and rate):
        raise ValueError(f"{channels} channels of {bits} bits at {rate} Hz")
    return channels, width, rate


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ValueError("it ends too early")
    return data
