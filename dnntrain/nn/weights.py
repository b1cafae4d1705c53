"""Load weights from a file into a model: compare all names, then copy all or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnntrain.errors import CheckpointError
from dnntrain.nn.added_parameters import find_added_names
from dnntrain.nn.shape import find_head_modules, get_storage_key
from dnntrain.nn.weight_files import ModelFile, open_model_file
from dnntrain.nn.weight_names import (
    NamePrefix,
    find_fitting_prefixes,
    format_name,
    format_shape,
    map_names,
    suggest_nearest,
)

#: Names listed of each kind of difference.
_MAX_LISTED = 5


@dataclass(frozen=True)
class LoadReport:
    """The file, and the names that were copied, or not.

    loaded     names of the model with values of the file
    kept_head  names of the head that keep their initialization
    kept       other names of the model outside the chosen part, which keep it too
    unused     names of the file that are not loaded
    reasons    why a name of the head is kept, by name
    """

    path: Path
    loaded: tuple[str, ...]
    kept_head: tuple[str, ...]
    kept: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        """Whether the file or the model has tensors that the other did not give or take."""
        return bool(self.kept_head or self.kept or self.unused)

    def __str__(self) -> str:
        head = [f"{name}{f' ({self.reasons[name]})' if name in self.reasons else ''}" for name in self.kept_head]
        parts = [
            f"{len(self.loaded)} tensors from {self.path}",
            f"new weights in {_join_limited(head)}" if head else "",
            f"{len(self.kept)} outside the part keep their initialization: {_join_names(self.kept)}"
            if self.kept
            else "",
            f"{len(self.unused)} of the file are not used: {_join_names(self.unused)}" if self.unused else "",
        ]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class _Difference:
    """Names that the file lacks, names that only the file has, and names whose shapes or kinds of numbers differ."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)


def load_weights(
    model: nn.Module, path: str | Path, replace_head: bool, prefix: NamePrefix | None = None
) -> LoadReport:
    """Copy tensors into `model` by name from a run, a .safetensors, a .pt or a .pth.

    With `replace_head`, a final classifier that the file lacks, or has for another number of
    classes, keeps the weights it has. Wrappers' prefixes (`module.`, `_orig_mod.`) are removed.
    With `prefix`, only this part of the file is loaded, into this part of the model; a head that
    does not fit keeps its weights, and the rest of the file is not used. Numbers are converted to
    the model's type. Raises CheckpointError if the file is damaged or foreign, or if another name
    or shape differs, and names them; `model` is then unchanged.
    """
    with open_model_file(Path(path).expanduser()) as file:
        targets = _get_targets(model)
        match = _match_names(file, model, targets, replace_head, prefix)
        values = {name: _read_value(file, match.sources[name], name) for name in match.report.loaded}
        _check_number_kinds(file, values, targets)
        with torch.no_grad():
            for name, value in values.items():
                targets[name].copy_(value)
    return match.report


def check_weights(
    model: nn.Module, path: str | Path, replace_head: bool, prefix: NamePrefix | None = None
) -> LoadReport:
    """Return the report of `load_weights`, or raise its CheckpointError for names and shapes.

    Read no numbers and change nothing.
    """
    with open_model_file(Path(path).expanduser()) as file:
        return _match_names(file, model, _get_targets(model), replace_head, prefix).report


def _get_targets(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `model` that a file may have, by name."""
    added = find_added_names(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in added}


class _Match(NamedTuple):
    """Name in the model → name in the file, and the report of a load by it."""

    sources: dict[str, str]
    report: LoadReport


def _match_names(
    file: ModelFile, model: nn.Module, targets: Mapping[str, Tensor], replace_head: bool, prefix: NamePrefix | None
) -> _Match:
    """Compare the names of the file, or of its part, with those of the model.

    Raises CheckpointError if names differ that must not.
    """
    sources = map_names(file.path, file.shapes, targets, prefix)
    head = tuple(f"{name}." for name in find_head_modules(model))
    part = {name: tensor for name, tensor in targets.items() if prefix is None or name.startswith(prefix.model)}
    kept_head = tuple(
        name
        for name in part
        if (replace_head or prefix is not None)
        and head
        and name.startswith(head)
        and not _has_same_shape(file, sources, name, targets[name])
    )
    difference = _compare_names(file, sources, part, kept_head)
    if prefix is not None:
        difference = replace(difference, unexpected=[])
    if difference:
        raise _make_mismatch_error(file, sources, part, difference, head)
    loaded = tuple(name for name in part if name in sources and name not in kept_head)
    if not loaded:
        raise CheckpointError(f"{file.path} holds no tensor of this model", "choose another file, or init_prefix")
    used = {sources[name] for name in (*loaded, *kept_head) if name in sources}
    return _Match(
        sources,
        LoadReport(
            file.path,
            loaded,
            kept_head,
            kept=tuple(name for name in targets if name not in part),
            unused=tuple(name for name in file.shapes if name not in used),
            reasons={
                name: f"{format_shape(file.shapes[sources[name]])} in the file, {format_shape(targets[name].shape)} here"
                for name in kept_head
                if name in sources
            },
        ),
    )


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
            f"{file.path}: {format_name(name)} holds numbers of the type {_get_dtype_name(value)}, which cannot be read",
            "save it as float32, float16 or bfloat16",
        )
    if not is_finite:
        raise CheckpointError(
            f"{file.path}: {format_name(name)} holds numbers that are not finite", "take an earlier checkpoint"
        )
    return value


def _check_number_kinds(file: ModelFile, values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if integers would become weights, or complex numbers real."""
    wrong = [
        f"{format_name(name)}: {_get_dtype_name(value)} in the file, {_get_dtype_name(targets[name])} in the model"
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
            [f"{format_name(name)}{suggest_nearest(name, unused)}" for name in difference.missing[:_MAX_LISTED]],
            difference.missing,
        ),
        _format_difference(
            "unexpected",
            [
                f"{format_name(name)}{suggest_nearest(name, difference.missing)}"
                for name in difference.unexpected[:_MAX_LISTED]
            ],
            difference.unexpected,
        ),
        _format_difference(
            "mis-shaped",
            [
                f"{format_name(name)}: {format_shape(file.shapes[sources[name]])} in the file, "
                f"{format_shape(targets[name].shape)} here"
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
    body = {name: tuple(tensor.shape) for name, tensor in targets.items() if not (head and name.startswith(head))}
    prefixes = find_fitting_prefixes(file.shapes, body)
    return CheckpointError(
        f"{file.path} does not fit this model:\n" + "\n".join(line for line in lines if line),
        f"all but the head is in the file with a prefix: use {' or '.join(f'init_prefix={name}' for name in prefixes)}"
        if prefixes
        else "choose the model that the file was saved from, with the same options",
    )


def _format_difference(kind: str, listed: list[str], names: list[str]) -> str:
    more = f" … and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return f"  {len(names)} {kind}: {', '.join(listed)}{more}" if names else ""


def _join_limited(texts: list[str]) -> str:
    return ", ".join(texts[:_MAX_LISTED]) + (
        f" … and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    )


def _join_names(names: Iterable[str]) -> str:
    return _join_limited([format_name(name) for name in names])
