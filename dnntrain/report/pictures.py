"""Check pictures that a run's files hold."""

from __future__ import annotations

import base64
import binascii
import struct

_MAX_PICTURE_BYTES = 24 * 2**10

#: Bytes of base64 that the pictures of a page may have together.
MAX_TOTAL_PICTURE_BYTES = 300 * 2**10


def validate_picture(data: object) -> str | None:
    """Return `data` if it is a small PNG in base64, else None."""
    if not isinstance(data, str) or len(data) > _MAX_PICTURE_BYTES:
        return None
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR" or len(raw) < 33:
        return None
    width, height = struct.unpack(">II", raw[16:24])
    return base64.b64encode(raw).decode("ascii") if 0 < width <= 256 and 0 < height <= 256 else None
