"""Make a data set of examples from the user's code: arrays, or objects with a length and items.

A split is a pair of arrays (inputs, targets), or an object whose items are such pairs, as a data set
of torchvision. Every example is read once and kept in memory.

    input   uint8 [channels, height, width], [height, width] or [height, width, channels] (numpy); the
            same as floats in [0, 1] that are bytes / 255; a Pillow image; or, as rows, numbers [columns]
    target  an integer: a class; several of 0 and 1, or booleans: labels; floats: numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.row_source import RowArray
from dnntrain.input.source import ArraySource, DataSet, Source, compute_digest
from dnntrain.input.table_columns import measure_moments
from dnntrain.protocols import Column, ColumnKind, InputKind, InputSpec, TargetKind, TargetSpec

if TYPE_CHECKING:
    pass

#: Attributes of a split with the names of the values of a target; torchvision calls them `classes`.
_NAME_ATTRIBUTES = ("classes", "class_names", "target_names")


def build_user_data(splits: Any, kind: InputKind, owner: str) -> DataSet:
    """Return the data set of `splits`: (train, test), (train, val, test), or a DataSet, which is kept.

    Raises DataError, which calls the splits `owner`, if an example does not have the right form.
    """
    if isinstance(splits, DataSet):
        return splits
    if not isinstance(splits, tuple | list) or len(splits) not in (2, 3):
        raise DataError(
            f"{owner} must give (train, test) or (train, val, test), not {_describe(splits)}",
            "each of them is a pair of arrays (inputs, targets), or an object with a length and items (input, target)",
        )
    names = ("train", "test") if len(splits) == 2 else ("train", "val", "test")
    pairs = [_read_split(split, kind, f"{owner}: {name} example") for split, name in zip(splits, names, strict=True)]
    shapes = [inputs.shape[1:] for inputs, _ in pairs]
    for name, shape in zip(names, shapes, strict=True):
        if shape != shapes[0]:
            raise DataError(f"{owner}: {name} has inputs of {_format(shape)}, train of {_format(shapes[0])}")
    targets = _find_targets(splits[0], pairs[0][1], owner)
    labels = [_make_labels(values, targets, f"{owner}: {name}") for (_, values), name in zip(pairs, names, strict=True)]
    inputs = _make_inputs(splits[0], pairs[0][0], kind, owner)
    if kind is InputKind.TABLE:
        pairs = [((rows - np.array(inputs.offsets)).astype(np.float32), values) for rows, values in pairs]
    offsets = [str(inputs.offsets)] if any(inputs.offsets) else []
    digest = compute_digest(["user data", *targets.names, *offsets, *(array for pair in pairs for array in pair)])
    val_index = None
    train, train_labels = pairs[0][0], labels[0]
    if len(pairs) == 3:
        val_index = np.arange(len(train), len(train) + len(pairs[1][0]))
        train, train_labels = np.concatenate([train, pairs[1][0]]), np.concatenate([train_labels, labels[1]])
    return DataSet(
        train=_make_source(train, train_labels, kind, "train"),
        test=_make_source(pairs[-1][0], labels[-1], kind, "test"),
        inputs=inputs,
        targets=targets,
        digest=digest,
        val_index=val_index,
    )


def _make_source(inputs: NDArray[Any], labels: NDArray[Any], kind: InputKind, split: str) -> Source:
    import torch

    tensor = torch.from_numpy(inputs)
    return RowArray(tensor, labels, split) if kind is InputKind.TABLE else ArraySource(tensor, labels, split)


def _read_split(split: Any, kind: InputKind, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return inputs [n, …] and targets [n] or [n, values] of a split."""
    if isinstance(split, tuple | list) and len(split) == 2 and all(hasattr(part, "shape") for part in split):
        inputs, targets = split
        if len(inputs) != len(targets):
            raise DataError(f"{name}s: {len(inputs)} inputs and {len(targets)} targets; there must be equally many")
        pairs = zip(inputs, targets, strict=True)
    elif hasattr(split, "__len__") and hasattr(split, "__getitem__"):
        pairs = (split[number] for number in range(len(split)))  # type: ignore[assignment]
    else:
        raise DataError(
            f"{name}s must be a pair of arrays (inputs, targets) or have a length and items, not {_describe(split)}",
            "an iterable can be made a list of pairs first: list(examples)",
        )
    read_inputs: list[NDArray[Any]] = []
    read_targets: list[NDArray[Any]] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(f"{name} {number} must be a pair (input, target), not {_describe(pair)}")
        value = (
            _to_row(pair[0], f"{name} {number}") if kind is InputKind.TABLE else _to_image(pair[0], f"{name} {number}")
        )
        if read_inputs and value.shape != read_inputs[0].shape:
            raise DataError(
                f"{name} {number} is {_format(value.shape)}, but example 0 is {_format(read_inputs[0].shape)}",
                "give all inputs the same size",
            )
        read_inputs.append(value)
        read_targets.append(np.asarray(pair[1]))
        if read_targets[-1].shape != read_targets[0].shape:
            raise DataError(
                f"{name} {number} has a target of the shape {read_targets[-1].shape}, "
                f"but example 0 of {read_targets[0].shape}"
            )
    if not read_inputs:
        raise DataError(f"{name}s: there are none", "give at least one example of each split")
    return np.stack(read_inputs), np.stack(read_targets)


def _to_row(value: Any, name: str) -> NDArray[np.float64]:
    row = np.asarray(value)
    if row.ndim != 1 or row.dtype.kind not in "iufb":
        raise DataError(
            f"{name} must be a row of numbers [columns], not {_format(row.shape)} of {row.dtype}",
            "set data.inputs=images for images",
        )
    if not np.isfinite(row.astype(np.float32)).all():
        raise DataError(f"{name} must have finite numbers", "fill missing values, or use data=table, which does")
    return row.astype(np.float64)


def _to_image(value: Any, name: str) -> NDArray[np.uint8]:
    """Return an image as uint8 [channels, height, width]."""
    is_channels_last = not hasattr(value, "dim")  # a tensor has its channels first
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and is_channels_last and array.shape[2] in (1, 3, 4) and array.shape[0] not in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(
            f"{name} must be an image [channels, height, width], not {_format(array.shape)}",
            "set data.inputs=rows for rows of numbers",
        )
    if array.dtype.kind == "f":
        scaled = array.astype(np.float64) * 255
        if not (np.abs(scaled - scaled.round()) < 1e-3).all() or scaled.min() < -0.5 or scaled.max() > 255.5:
            raise DataError(
                f"{name} must be uint8, or floats that are uint8 / 255; its values are from {array.min():g} to {array.max():g}",
                "leave normalization out: dnntrain normalizes by the mean and deviation of the training images",
            )
        array = scaled.round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{name} must be uint8, not {array.dtype}", "scale the values to 0..255")
    return np.ascontiguousarray(array)


def _find_targets(split: Any, values: NDArray[Any], owner: str) -> TargetSpec:
    """Return the form of the targets by the values of the training split."""
    names = next((tuple(map(str, vars_of(split, name))) for name in _NAME_ATTRIBUTES if vars_of(split, name)), ())
    flat = values.reshape(len(values), -1)
    if values.dtype.kind == "f":
        moments = [measure_moments(column) for column in flat.T]
        for number, column in enumerate(flat.T):
            if not np.isfinite(column).all() or len(np.unique(column)) < 2:
                raise DataError(f"{owner}: target {number} must be finite, and not the same for all training examples")
        means, stds = (tuple(column) for column in zip(*moments, strict=True))
        return TargetSpec(_check_names(names or _number("target", flat), flat, owner), TargetKind.NUMBERS, means, stds)
    if values.dtype.kind not in "iub":
        raise DataError(
            f"{owner}: targets must be integers (classes), floats (numbers) or rows of 0 and 1 (labels), not {values.dtype}",
            "number the classes from 0, and name them in an attribute `classes` of the training split",
        )
    if values.ndim == 1:
        count = max(int(values.max()) + 1, len(names))
        names = names or tuple(map(str, range(count)))
        if count < 2 or len(names) < count:
            raise DataError(f"{owner}: the largest class is {count - 1}, but there are {len(names)} class names")
        return TargetSpec(names)
    return TargetSpec(_check_names(names or _number("label", flat), flat, owner), TargetKind.LABELS)


def vars_of(split: Any, name: str) -> Any:
    """Return an attribute of an object that is not dnntrain's; None if it does not have it."""
    return getattr(split, name, None)


def _number(noun: str, values: NDArray[Any]) -> tuple[str, ...]:
    return (noun,) if values.shape[1] == 1 else tuple(f"{noun} {number}" for number in range(values.shape[1]))


def _check_names(names: tuple[str, ...], values: NDArray[Any], owner: str) -> tuple[str, ...]:
    if len(names) != values.shape[1]:
        raise DataError(f"{owner}: a target has {values.shape[1]} values, but there are {len(names)} names")
    return names


def _make_labels(values: NDArray[Any], targets: TargetSpec, name: str) -> NDArray[Any]:
    """Return int64 [n], float32 [n, labels] or standardized float64 [n, targets]. Raises DataError."""
    if targets.kind is TargetKind.NUMBERS:
        flat = values.reshape(len(values), -1).astype(np.float64)
        standardized: NDArray[Any] = (flat - np.array(targets.mean)) / np.array(targets.std)
        return standardized
    upper = len(targets.names) - 1 if targets.kind is TargetKind.CLASS else 1
    if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > upper:
        wrong = values[(values < 0) | (values > upper)].ravel()
        raise DataError(
            f"{name}: targets must be integers in 0..{upper}"
            + (f", but one is {wrong[0]}" if wrong.size else f", not {values.dtype}"),
            "targets of all splits must have the form of the training targets",
        )
    return values.astype(np.int64) if targets.kind is TargetKind.CLASS else values.astype(np.float32)


def _make_inputs(split: Any, inputs: NDArray[Any], kind: InputKind, owner: str) -> InputSpec:
    """Return the form of the inputs, with mean and deviation of the training split."""
    if kind is InputKind.TABLE:
        names = tuple(map(str, vars_of(split, "columns") or (f"x{number}" for number in range(inputs.shape[1]))))
        if len(names) != inputs.shape[1]:
            raise DataError(f"{owner}: a row has {inputs.shape[1]} numbers, but there are {len(names)} columns")
        moments = [measure_moments(column) for column in inputs.T]
        means, stds = (tuple(values) for values in zip(*moments, strict=True))
        return InputSpec((len(names),), means, stds, tuple(Column(name, ColumnKind.NUMBER) for name in names))
    channel_means, channel_stds = [], []
    for channel in range(inputs.shape[1]):
        counts = np.bincount(inputs[:, channel].ravel(), minlength=256)
        levels = np.arange(256) / 255
        mean = float((counts * levels).sum() / counts.sum())
        channel_means.append(mean)
        channel_stds.append(max(float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum())), 1 / 255))
    return InputSpec(tuple(inputs.shape[1:]), tuple(channel_means), tuple(channel_stds))


def _format(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _describe(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
