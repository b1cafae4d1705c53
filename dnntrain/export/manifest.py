"""What travels with an exported model: classes, input, normalisation, configuration, checksums. A manifest, or inside the model file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dnntrain import __version__
from dnntrain.errors import CheckpointError
from dnntrain.utils.files import plain_json, write_json

MANIFEST = "manifest.json"

#: The layout of the manifest; one of another number is refused.
SCHEMA = 1

#: The key of the card inside an ONNX model's metadata, and of the extra file inside a .pt2 archive.
EMBEDDED = "dnntrain.json"

_AGAIN = "export it again with: dnntrain export RUN"


@dataclass(frozen=True)
class Card:
    """The description of one exported model.

    input_shape  (channels, height, width) of one image
    mean, std    per channel, of pixels in [0, 1]: the model takes (pixel / 255 - mean) / std
    config       the run's resolved configuration, which names the data set that `eval` reads
    files        name → sha256 of each file of the export
    details      what was measured and chosen: parity, census, quantisation, machine
    """

    format: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The card as strict JSON."""
        found: dict[str, Any] = plain_json(
            {
                "schema": SCHEMA,
                "dnntrain": __version__,
                "format": self.format,
                "class_names": self.class_names,
                "input": {
                    "name": "images",
                    "dtype": "float32",
                    "shape": ["batch", *self.input_shape],
                    "mean": self.mean,
                    "std": self.std,
                    "preprocessing": "RGB or gray; the shorter side resized (bilinear), the centre cropped; "
                    "(pixel / 255 - mean) / std",
                },
                "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(self.class_names)]},
                "config": dict(self.config),
                "files": dict(self.files),
                "details": dict(self.details),
            }
        )
        return found

    def text(self) -> str:
        """The card as it is put inside a model file: without checksums, which cannot be of the file they stand in."""
        return json.dumps(replace(self, files={}).as_json(), ensure_ascii=False)


def parse(text: str | bytes, place: Path) -> Card:
    """The card in `text`. Raises CheckpointError, naming `place`, where it is damaged or of another schema."""
    try:
        value = json.loads(text)
        schema = value["schema"]
        if schema != SCHEMA:
            raise CheckpointError(
                f"{place}: schema {schema!r} of another version of dnntrain; this one reads {SCHEMA}", _AGAIN
            )
        shape = value["input"]
        channels, height, width = (int(size) for size in shape["shape"][1:])
        return Card(
            format=str(value["format"]),
            class_names=tuple(str(name) for name in value["class_names"]),
            input_shape=(channels, height, width),
            mean=tuple(float(number) for number in shape["mean"]),
            std=tuple(float(number) for number in shape["std"]),
            config=dict(value["config"]),
            files={str(name): str(digest) for name, digest in value["files"].items()},
            details=dict(value["details"]),
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{place}: the description of the model is damaged ({error!r})", _AGAIN) from None


def read_manifest(folder: Path) -> Card:
    """The card of the export in `folder`."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read ({error.strerror})", _AGAIN) from None
    return parse(text, folder / MANIFEST)


def write_manifest(folder: Path, card: Card, files: Sequence[str]) -> Card:
    """Writes manifest.json with the checksums of `files`; to be the last file written. Returns the card with them."""
    card = replace(card, files={name: sha256(folder / name) for name in sorted(files)})
    write_json(folder / MANIFEST, card.as_json())
    return card


def verify(folder: Path, card: Card) -> None:
    """Raises CheckpointError where a file that the manifest lists is missing, or differs from what was written."""
    for name, digest in card.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{folder / MANIFEST} names {name!r}, which is not a file of its own folder", _AGAIN)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", _AGAIN)
        if sha256(path) != digest:
            raise CheckpointError(f"{path} is damaged or was altered: its sha256 is not that of {MANIFEST}", _AGAIN)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
