"""Read a folder of transformers' weights into a decoder, and write one: config.json and safetensors, never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.nn.decoder import Decoder, DecoderShape
from dnntrain.nn.hf.names import Part, list_parts
from dnntrain.nn.hf.sizes import Family, choose_family, read_sizes
from dnntrain.nn.weight_files import open_model_file
from dnntrain.utils.files import make_folder, read_bytes
from dnntrain.utils.json_files import parse_json, write_json

#: Buffers in files of older versions of transformers, which its networks compute themselves.
_COMPUTED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")

#: Names that a message lists.
_MAX_LISTED = 5


@dataclass(frozen=True)
class HfFolder:
    """The configuration of a folder: its family and the sizes of its network."""

    path: Path
    family: Family
    shape: DecoderShape


def read_folder(path: Path) -> HfFolder:
    """Read the config.json of a folder. Raises CheckpointError if it is missing, damaged or of another network."""
    file = path / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{path} holds no config.json", "name a folder that model.save_pretrained(FOLDER) of transformers wrote"
        )
    try:
        config = parse_json(read_bytes(file))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}", "copy the folder again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} is damaged: it must be a mapping", "copy the folder again")
    return HfFolder(path, *read_sizes(config, path))


def check_folder(folder: HfFolder) -> None:
    """Compare names and shapes of the weights with those of the network. Raises CheckpointError if they differ."""
    with torch.device("meta"):
        targets = Decoder(folder.shape).state_dict()
    with _open_weights(folder.path) as weights:
        _find_parts(folder, folder.shape, weights.shapes, targets)


def load_folder(folder: HfFolder, model: Decoder) -> None:
    """Copy the weights of `folder` into `model`, which has its sizes, in float32.

    A network for classes keeps its own head. Raises CheckpointError if names, shapes or numbers are wrong.
    """
    targets = model.state_dict()
    with _open_weights(folder.path) as weights, torch.no_grad():
        for part, sources in _find_parts(folder, model.shape, weights.shapes, targets):
            value = part.join({name: weights.read(source) for name, source in sources.items()})
            if not (value.is_floating_point() and torch.isfinite(value.float()).all()):
                raise CheckpointError(
                    f"{folder.path}: {part.theirs[0]} holds numbers that are not finite, or not floating-point",
                    "choose a folder of float32, float16 or bfloat16 weights",
                )
            targets[part.name].copy_(value)


def write_folder(model: Decoder, path: Path) -> None:
    """Write config.json and model.safetensors that transformers loads.

    GPT-2 has biases everywhere; a network without them gets zeros. Raises ConfigError if no network of
    transformers computes what `model` does.
    """
    from safetensors.torch import save_file

    shape = model.shape
    family = choose_family(shape)
    tensors = {name: tensor.cpu().float() for name, tensor in model.state_dict().items()}
    written: dict[str, Tensor] = {}
    for part in list_parts(family.name, shape):
        if part.name not in tensors:
            weight = tensors[part.name.removesuffix("bias") + "weight"]
            tensors[part.name] = torch.zeros(len(weight))
        written |= part.split(tensors[part.name])
    make_folder(path)
    save_file(written, path / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied_head,
        "dtype": "float32",
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
        **family.write(shape),
    }
    write_json(path / "config.json", config)


@dataclass(frozen=True)
class _Weights:
    """The tensors of one or several files: the shape of each name, and `read(name)`."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def _open_weights(path: Path) -> Iterator[_Weights]:
    shapes: dict[str, tuple[int, ...]] = {}
    readers: dict[str, Callable[[str], Tensor]] = {}
    with ExitStack() as stack:
        for file in _list_files(path):
            opened = stack.enter_context(open_model_file(file))
            shapes |= opened.shapes
            readers |= dict.fromkeys(opened.shapes, opened.read)
        yield _Weights(shapes, lambda name: readers[name](name))


def _list_files(path: Path) -> Iterable[Path]:
    """Return the safetensors files of a folder: one, or those that its index names."""
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file() or not index.is_file():
        if (path / "model.safetensors").is_file():
            return [path / "model.safetensors"]
        raise CheckpointError(
            f"{path} holds no model.safetensors; pickled weights are not read",
            "write the folder again with transformers: model.save_pretrained(FOLDER)",
        )
    try:
        names = sorted(set(json.loads(read_bytes(index))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} is damaged", "copy the folder again") from None
    if wrong := [name for name in names if Path(str(name)).name != name or not str(name).endswith(".safetensors")]:
        raise CheckpointError(f"{index} names {wrong[0]!r}, which is not a .safetensors file of its folder")
    return [path / name for name in names]


def _find_parts(
    folder: HfFolder, shape: DecoderShape, shapes: Mapping[str, tuple[int, ...]], targets: Mapping[str, Tensor]
) -> list[tuple[Part, dict[str, str]]]:
    """Return each part of a network, and the names in the files of transformers' names.

    Some files lack the prefix of the body. Raises CheckpointError if names or shapes differ.
    """
    base = "transformer." if folder.family.name == "gpt2" else "model."
    has_prefix = any(name.startswith(base) for name in shapes)
    parts = [
        (part, {name: name if has_prefix else name.removeprefix(base) for name in part.theirs})
        for part in list_parts(folder.family.name, shape)
    ]
    used = {source for _, sources in parts for source in sources.values()}
    differences = {
        "lacks": [source for source in used if source not in shapes],
        "also has": [
            name
            for name in shapes
            # A tied head is the embedding; a network for classes has a head of its own.
            if name not in used and name != "lm_head.weight" and not name.endswith(_COMPUTED)
        ],
        "has tensors of other shapes": [
            source
            for part, sources in parts
            for name, source in sources.items()
            if source in shapes and shapes[source] != tuple(part.split(targets[part.name])[name].shape)
        ],
    }
    for kind, names in differences.items():
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            raise CheckpointError(
                f"{folder.path} does not hold the network of its config.json: it {kind} "
                f"{', '.join(sorted(names)[:_MAX_LISTED])}{more}",
                "copy the folder again",
            )
    return parts
