"""Load weights from a file into a model: compare all names, then copy all or none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dnntrain.errors import CheckpointError
from dnntrain.nn.shape import find_head_modules, get_storage_key
from dnntrain.nn.weight_files import ModelFile, open_model_file
from dnntrain.utils.terminal_text import clean_line

#: Prefixes that wrappers add to every name: DataParallel and DDP, Lightning and others.
_PREFIXES = ("module.", "model.", "net.", "network.")

#: Names listed of each kind of difference.
_MAX_LISTED = 5


@dataclass(frozen=True)
class LoadReport:
    """The file, the copied names, and the names of the head that keep new weights."""

    path: Path
    loaded: tuple[str, ...]
    kept_head: tuple[str, ...]

    def __str__(self) -> str:
        kept_text = f"; new weights in {', '.join(self.kept_head)}" if self.kept_head else ""
        return f"{len(self.loaded)} tensors from {self.path}{kept_text}"


@dataclass(frozen=True)
class _Difference:
    """Names that the file lacks, names that only the file has, and names whose shapes or kinds of numbers differ."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)


def load_weights(model: nn.Module, path: str | Path, replace_head: bool) -> LoadReport:
    """Copy tensors into `model` by name from a run, a .safetensors, a .pt or a .pth.

    With `replace_head`, a final classifier that the file lacks, or has for another number of
    classes, keeps the weights it has. Wrappers' prefixes (`module.`, `_orig_mod.`) are removed.
    Numbers are converted to the model's type. Raises CheckpointError if the file is damaged or
    foreign, or if another name or shape differs, and names them; `model` is then unchanged.
    """
    with open_model_file(Path(path).expanduser()) as file:
        targets = model.state_dict()
        sources, kept_head = _match_names(file, model, targets, replace_head)
        values = {
            name: _read_value(file, sources[name], name)
            for name in targets
            if name in sources and name not in kept_head
        }
        _check_number_kinds(file, values, targets)
        with torch.no_grad():
            for name, value in values.items():
                targets[name].copy_(value)
    return LoadReport(file.path, tuple(values), kept_head)


def check_weights(model: nn.Module, path: str | Path, replace_head: bool) -> None:
    """Raise the CheckpointError of `load_weights` for names and shapes.

    Read no numbers and change nothing.
    """
    with open_model_file(Path(path).expanduser()) as file:
        _match_names(file, model, model.state_dict(), replace_head)


def _match_names(
    file: ModelFile, model: nn.Module, targets: Mapping[str, Tensor], replace_head: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return (name in the model → name in the file, names of the head that keep their weights).

    Raises CheckpointError if other names differ.
    """
    sources = _map_names(file, targets)
    head = tuple(f"{name}." for name in find_head_modules(model))
    kept_head = tuple(
        name
        for name in targets
        if replace_head and head and name.startswith(head) and not _has_same_shape(file, sources, name, targets[name])
    )
    if difference := _compare_names(file, sources, targets, kept_head):
        raise _make_mismatch_error(file, sources, targets, difference, head)
    return sources, kept_head


def _map_names(file: ModelFile, targets: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a mapping from names in the model to names in the file."""
    names = {name.replace("_orig_mod.", ""): name for name in file.shapes}
    if len(names) < len(file.shapes):
        raise CheckpointError(f"{file.path} holds names that differ in `_orig_mod.` only")
    while prefix := _find_common_prefix(names, targets):
        names = {name.removeprefix(prefix): file_name for name, file_name in names.items()}
    return names


def _find_common_prefix(names: Mapping[str, str], targets: Mapping[str, Tensor]) -> str | None:
    for prefix in _PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return None if any(name.startswith(prefix) for name in targets) else prefix
    return None


def _has_same_shape(file: ModelFile, sources: Mapping[str, str], name: str, target: Tensor) -> bool:
    return name in sources and file.shapes[sources[name]] == tuple(target.shape)


def _compare_names(
    file: ModelFile, sources: Mapping[str, str], targets: Mapping[str, Tensor], kept_head: tuple[str, ...]
) -> _Difference:
    tied_names = _find_tied_names(targets, sources)
    return _Difference(
        # Files from before torch 0.4.1 do not count batches; the count has no effect.
        missing=[
            name
            for name in targets
            if name not in sources
            and name not in kept_head
            and name not in tied_names
            and not name.endswith("num_batches_tracked")
        ],
        unexpected=[name for name in sources if name not in targets],
        misshaped=[
            name
            for name in targets
            if name in sources and name not in kept_head and not _has_same_shape(file, sources, name, targets[name])
        ],
    )


def _find_tied_names(targets: Mapping[str, Tensor], sources: Iterable[str]) -> set[str]:
    """Return the names whose tensor is loaded under another name, because modules share it."""

    loaded_keys = {get_storage_key(targets[name]) for name in sources if name in targets}
    return {name for name, tensor in targets.items() if get_storage_key(tensor) in loaded_keys}


def _read_value(file: ModelFile, source: str, name: str) -> Tensor:
    value = file.read(source)
    try:
        is_finite = not value.is_floating_point() or bool(torch.isfinite(value.float()).all())
    except (RuntimeError, TypeError):  # numbers of 4 bits, which torch stores and does not compute with
        is_finite = None
    if is_finite is None or value.shape != file.shapes[source]:
        raise CheckpointError(
            f"{file.path}: {_format_name(name)} holds numbers of the type {_get_dtype_name(value)}, which cannot be read",
            "save it as float32, float16 or bfloat16",
        )
    if not is_finite:
        raise CheckpointError(
            f"{file.path}: {_format_name(name)} holds numbers that are not finite", "take an earlier checkpoint"
        )
    return value


def _check_number_kinds(file: ModelFile, values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if integers would become weights, or complex numbers real."""
    wrong = [
        f"{_format_name(name)}: {_get_dtype_name(value)} in the file, {_get_dtype_name(targets[name])} in the model"
        for name, value in values.items()
        if (value.is_floating_point(), value.is_complex())
        != (targets[name].is_floating_point(), targets[name].is_complex())
    ]
    if wrong:
        raise CheckpointError(f"{file.path} does not fit this model: {_join_limited(wrong)}")


def _get_dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _make_mismatch_error(
    file: ModelFile,
    sources: Mapping[str, str],
    targets: Mapping[str, Tensor],
    difference: _Difference,
    head: tuple[str, ...],
) -> CheckpointError:
    unused = [name for name in sources if name not in targets]
    lines = [
        _format_difference(
            "missing",
            [f"{_format_name(name)}{_suggest_nearest(name, unused)}" for name in difference.missing[:_MAX_LISTED]],
            difference.missing,
        ),
        _format_difference(
            "unexpected",
            [
                f"{_format_name(name)}{_suggest_nearest(name, difference.missing)}"
                for name in difference.unexpected[:_MAX_LISTED]
            ],
            difference.unexpected,
        ),
        _format_difference(
            "mis-shaped",
            [
                f"{_format_name(name)}: {_format_shape(file.shapes[sources[name]])} in the file, "
                f"{_format_shape(targets[name].shape)} here"
                for name in difference.misshaped[:_MAX_LISTED]
            ],
            difference.misshaped,
        ),
    ]
    only_head = head and all(name.startswith(head) for name in (*difference.missing, *difference.misshaped))
    if only_head and difference.misshaped and not difference.unexpected:
        classes = file.shapes[sources[difference.misshaped[0]]]
        return CheckpointError(
            f"{file.path} was trained for {classes[0] if classes else '?'} classes, but this model has "
            f"{targets[difference.misshaped[0]].shape[0]}:\n" + "\n".join(line for line in lines if line),
            "init_replace_head=true loads the rest and gives the head new weights",
        )
    return CheckpointError(
        f"{file.path} does not fit this model:\n" + "\n".join(line for line in lines if line),
        "choose the model that the file was saved from, with the same options",
    )


def _format_difference(kind: str, listed: list[str], names: list[str]) -> str:
    more = f" … and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return f"  {len(names)} {kind}: {', '.join(listed)}{more}" if names else ""


def _join_limited(texts: list[str]) -> str:
    return ", ".join(texts[:_MAX_LISTED]) + (
        f" … and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    )


def _suggest_nearest(name: str, others: list[str]) -> str:
    """Return a text with the nearest of `others` that has the same last part.

    Only the first 500 are searched.
    """
    suffix = name.rpartition(".")[2]
    matches = difflib.get_close_matches(name[:200], [other for other in others if other.endswith(suffix)][:500], 1, 0.6)
    return f" (nearest: {_format_name(matches[0])})" if matches else ""


def _format_name(name: str) -> str:
    """Return a name from a foreign file in a form that is safe for a terminal."""
    name = clean_line(name) or "''"
    return name if len(name) <= 80 else f"{name[:79]}…"


def _format_shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"
