"""The manifest of an exported model: its format, configuration and checksums.

It is a file beside the model, and also inside the model file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dnntrain import __version__
from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.checkpoint.model_spec import decode_model_spec, decode_trained_data, encode_extra_values
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import InputKind, ModelSpec, TargetKind
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.utils.files import read_bytes
from dnntrain.utils.json_files import parse_json, read_json, to_strict_json, write_json
from dnntrain.utils.sealed_json import is_sealed, seal_json

MANIFEST_NAME = "manifest.json"

#: The suffixes of model files.
EXPORT_SUFFIXES = (".onnx", ".pt2", ".safetensors", ".xml")

#: The version of the manifest's layout; other versions are not read.
SCHEMA_VERSION = 1

#: The key of the manifest inside an ONNX model's metadata, and of the extra file inside a .pt2
#: archive.
EMBEDDED_NAME = "dnntrain.json"

#: Keys of the manifest of an export, of any schema.
_MANIFEST_KEYS = {"schema", "dnntrain", "format", "files"}

#: The key of the names of targets: of other targets, and of classes.
_NAMES_KEYS = ("target_names", "class_names")

_EXPORT_AGAIN_HINT = "export it again with: dnntrain export RUN"


@dataclass(frozen=True)
class Manifest:
    """The description of one exported model.

    spec     inputs and outputs of the model
    config   the run's resolved configuration, which names the data set that `eval` reads
    files    name → sha256 of each file of the export
    details  measured and chosen values: parity, census, quantization, machine
    trained_data  the digest and the sizes of the data of the training; empty if they are unknown
    """

    format: str
    spec: ModelSpec
    config: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    trained_data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def _image_reading(self) -> ImageReading:
        return ImageReading.from_saved_options(self.config.get("data"))

    @property
    def _sound(self) -> AudioReading | None:
        return AudioReading.find(self.config.get("data"))

    @property
    def _is_picture(self) -> bool:
        return self.spec.inputs.kind is InputKind.IMAGES and self._sound is None

    @property
    def _preprocessing_text(self) -> str:
        if self.spec.inputs.vocabulary is not None:
            return "the number of each token, by the vocabulary"
        if self.spec.inputs.columns:
            return (
                "number: (value - mean) / std in float64, 0 if missing; category: its place in categories from 1 on, "
                "0 if missing or unknown; missing: 1 if the number of that name is missing, else 0"
            )
        if sound := self._sound:
            return sound.describe()
        color = "RGB" if self.spec.inputs.shape[0] == 3 else "gray (ITU-R 601)"
        return (
            f"upright by EXIF; transparent pixels on black; {color}; {self._image_reading.resize_description}; "
            "(pixel / 255 - mean) / std"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as strict JSON, with the checksum of its values."""
        inputs, output = self.spec.inputs, self.spec.output
        batch = self.details.get("batch", "batch")
        json_value: dict[str, Any] = to_strict_json(
            {
                "schema": SCHEMA_VERSION,
                "dnntrain": __version__,
                "format": self.format,
                _NAMES_KEYS[self.spec.targets.kind is TargetKind.CLASS]: self.spec.targets.names,
                "targets": self.spec.targets.kind.name.lower(),
                **encode_extra_values(self.spec),
                "input": {
                    "name": inputs.name,
                    "dtype": inputs.dtype_name,
                    "shape": [batch, *inputs.shape],
                    "mean": inputs.mean,
                    "std": inputs.std,
                    "preprocessing": self._preprocessing_text,
                    **({"resize": self._image_reading.resize_formula} if self._is_picture else {}),
                },
                "output": {"name": output.name, "dtype": "float32", "shape": [batch, *output.shape]},
                "config": dict(self.config),
                "files": dict(self.files),
                "details": dict(self.details),
                "trained_data": dict(self.trained_data),
            }
        )
        return seal_json(json_value)

    def to_text(self) -> str:
        """Return the manifest as text for the inside of a model file.

        It has no checksums of files, because a file cannot contain its own.
        """
        return json.dumps(replace(self, files={}).as_json(), ensure_ascii=False)


def parse_manifest(text: str | bytes, path: Path) -> Manifest:
    """Parse the manifest in `text`.

    Raises CheckpointError, which names `path`, if it is damaged or of another schema.
    """
    try:
        value = parse_json(text)
        schema = value["schema"]
        if schema != SCHEMA_VERSION:
            raise CheckpointError(
                f"{path}: schema {schema!r} of another version of dnntrain; this one reads {SCHEMA_VERSION}",
                _EXPORT_AGAIN_HINT,
            )
        if not is_sealed(value):
            raise CheckpointError(
                f"{path} is damaged or was altered: the values of its description do not match their SHA-256",
                _EXPORT_AGAIN_HINT,
            )
        input_spec, output = value["input"], value["output"]
        return Manifest(
            format=str(value["format"]),
            spec=decode_model_spec(
                input_shape=input_spec["shape"][1:],
                mean=input_spec["mean"],
                std=input_spec["std"],
                names=value.get("class_names", value.get("target_names")),
                targets=value["targets"],
                output_name=output["name"],
                output_shape=output["shape"][1:],
                extra=value,
            ),
            config=dict(value["config"]),
            files={str(name): str(digest) for name, digest in value["files"].items()},
            details=dict(value["details"]),
            trained_data=decode_trained_data(value.get("trained_data")),
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the description of the model is damaged ({error!r})", _EXPORT_AGAIN_HINT
        ) from None


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the export in `folder`."""
    try:
        text = read_bytes(folder / MANIFEST_NAME)
    except OSError as error:
        raise CheckpointError(
            f"{folder / MANIFEST_NAME} cannot be read ({error.strerror})", _EXPORT_AGAIN_HINT
        ) from None
    return parse_manifest(text, folder / MANIFEST_NAME)


def write_manifest(folder: Path, manifest: Manifest, files: Sequence[str]) -> Manifest:
    """Write manifest.json with the checksums of `files`, and return the manifest with them.

    It must be the last file to be written.
    """
    manifest = replace(manifest, files={name: compute_file_digest(folder / name) for name in sorted(files)})
    write_json(folder / MANIFEST_NAME, manifest.as_json())
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files of an export with the manifest.

    Raises CheckpointError if a listed file is missing or differs from its checksum.
    """
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(
                f"{folder / MANIFEST_NAME} names {name!r}, which is not a file of its own folder", _EXPORT_AGAIN_HINT
            )
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", _EXPORT_AGAIN_HINT)
        if compute_file_digest(path) != digest:
            raise CheckpointError(
                f"{path} is damaged or was altered: its sha256 differs from the one in {MANIFEST_NAME}",
                _EXPORT_AGAIN_HINT,
            )


def is_export(path: Path) -> bool:
    """Return whether `path` is the folder of an export, or a model file."""
    return (path.is_dir() and (path / MANIFEST_NAME).is_file()) or (path.is_file() and path.suffix in EXPORT_SUFFIXES)


def check_target(target: Path) -> None:
    """Check that an export may be written to `target`: it does not exist, is an empty folder or is an export.

    Raises ConfigError if not, and for the current folder and those above it, which a new folder would replace.
    """
    if target.name in ("", "..") or Path.cwd().is_relative_to(target.resolve()):
        raise ConfigError(
            f"path={target} is the current folder or one above it, which an export cannot replace",
            "name a new folder, as in --path export",
        )
    if target.exists() and not _is_replaceable(target):
        raise ConfigError(f"path={target} exists and is not an export", "name a new folder, or remove it")


def _is_replaceable(target: Path) -> bool:
    """Return whether `target` is an empty folder or an export; a manifest.json of another program is not enough."""
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    return read_json(target / MANIFEST_NAME).keys() >= _MANIFEST_KEYS
