"""Open ONNX files safely, and read and write the description of the model inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.utils.files import read_bytes

_DIGEST_KEY = "dnntrain.sha256"

#: The entry of the checksum in the file: key, tag and length of the value, value.
_DIGEST = re.compile(re.escape(_DIGEST_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})")

_EXPORT_AGAIN_HINT = "export it again with: dnntrain export RUN --format onnx"


def open_session(path: Path, **options: Any) -> Any:
    """Return an ONNX Runtime session on the CPU with as many threads as torch has.

    Raises CheckpointError if the file is damaged.
    """
    from importlib import import_module

    onnxruntime: Any = import_module("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception for each way to fail, without a common one
        raise CheckpointError(
            f"{path} cannot be read by ONNX Runtime: {_to_one_line(error)}", _EXPORT_AGAIN_HINT
        ) from None


def load_onnx(path: Path) -> Any:
    """Return the ModelProto of `path` without external data.

    Raises CheckpointError if the file is damaged.
    """
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})", _EXPORT_AGAIN_HINT) from None
    except Exception as error:  # protobuf's DecodeError comes from an internal module
        raise CheckpointError(
            f"{path} is not an ONNX model, or is damaged: {_to_one_line(error)}", _EXPORT_AGAIN_HINT
        ) from None


def check_known_opset(opset: int | None) -> None:
    """Raise ConfigError if the installed packages do not know the operator version `opset`."""
    import onnx

    newest = int(onnx.defs.onnx_opset_version())
    if opset is not None and opset > newest:
        raise ConfigError(
            f"--opset {opset} is newer than the installed onnx {onnx.__version__}", f"use --opset {newest}"
        )


def check_opset(path: Path, opset: int | None) -> None:
    """Check that the model is of the operator version `opset`; None: any.

    The exporter keeps another version, with a warning, if it cannot convert an operator. Raises
    ConfigError that names the version which works.
    """
    version = next(entry.version for entry in load_onnx(path).opset_import if entry.domain in ("", "ai.onnx"))
    if opset is not None and version != opset:
        raise ConfigError(
            f"--opset {opset}: an operator of the model cannot be written in this version", f"use --opset {version}"
        )


def fix_batch(path: Path, batch: int) -> None:
    """Give the inputs and outputs of the model `path` the fixed number of examples `batch`."""
    from importlib import import_module

    import onnx

    tools: Any = import_module("onnxruntime.tools.onnx_model_utils")
    model = onnx.load(str(path))
    tools.make_dim_param_fixed(model.graph, "batch", batch)
    tools.fix_output_shapes(model)
    onnx.save(model, str(path))


def write_metadata(path: Path, key: str, text: str) -> None:
    """Write `text` under `key` into the metadata of the model `path`, and the checksum of the file.

    The checksum is the SHA-256 of the file with zeros in its place.
    """
    import onnx

    model = onnx.load(str(path))
    entries = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, {**entries, key: text, _DIGEST_KEY: "0" * 64})
    data = bytearray(model.SerializeToString())
    match = _DIGEST.search(data)
    assert match is not None
    data[match.start(1) : match.end(1)] = compute_bytes_digest(bytes(data)).encode()
    path.write_bytes(data)


def check_file_digest(path: Path) -> None:
    """Compare the model with the checksum in its metadata. Raises CheckpointError if it differs."""
    data = bytearray(read_bytes(path, follow_links=True))
    match = _DIGEST.search(data)
    stated_digest = match[1] if match else b""
    if match:
        data[match.start(1) : match.end(1)] = b"0" * 64
    if stated_digest != compute_bytes_digest(bytes(data)).encode():
        raise CheckpointError(
            f"{path} is damaged or was altered: it does not match the SHA-256 in its metadata", _EXPORT_AGAIN_HINT
        )


def read_metadata(path: Path, key: str) -> str:
    """Return the text under `key` in the model's metadata.

    Raises CheckpointError if there is none.
    """
    metadata = {item.key: item.value for item in load_onnx(path).metadata_props}
    if key not in metadata:
        raise CheckpointError(
            f"{path} does not describe its classes and normalization: it was not written by dnntrain",
            _EXPORT_AGAIN_HINT,
        )
    return str(metadata[key])


def check_external_data(path: Path) -> None:
    """Check that the model keeps all data inside its own folder.

    Another location would let a model file read any file of the machine. Raises CheckpointError if
    there is one.
    """
    folder = path.parent.resolve()
    for tensor in iterate_tensors(load_onnx(path).graph):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        data_path = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not data_path.is_relative_to(folder):
            raise CheckpointError(
                f"{path}: {tensor.name} is stored in {location!r}, outside the model's folder, and is not read",
                "put the file beside the model, or export again: dnntrain writes all weights into one file",
            )


def iterate_tensors(graph: Any) -> Iterator[Any]:
    """Yield every TensorProto of the graph.

    These are initializers and attributes of nodes, inner graphs included.
    """
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from iterate_tensors(inner)


def _to_one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
