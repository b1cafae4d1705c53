"""Write the specification of a model as JSON, and decode it from JSON that may be damaged or hostile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dnntrain.protocols import (
    Column,
    ColumnKind,
    InputSpec,
    ModelSpec,
    OutputSpec,
    TargetKind,
    TargetSpec,
    Vocabulary,
)

#: Largest size of an axis, and largest number of values of an image or an output.
_MAX_SIZE, _MAX_VALUES = 2**20, 2**28


def encode_extra_values(spec: ModelSpec) -> dict[str, Any]:
    """Return the values of a specification that only some tasks and data have, as plain JSON.

    `columns` are those of a table; `target_mean` and `target_std` those of standardized targets;
    `vocabulary` has the tokens of a text;
    `threshold` is the probability from which a label is predicted, if validation chose it.
    """
    columns = [
        {"name": column.name, "kind": column.kind.value, "categories": list(column.categories)}
        for column in spec.inputs.columns
    ]
    if (vocabulary := spec.inputs.vocabulary) is not None:
        return {
            "vocabulary": {**asdict(vocabulary), "merges": [list(pair) for pair in vocabulary.merges]},
            "isolates_documents": spec.inputs.isolates_documents,
        }
    moments = {"target_mean": list(spec.targets.mean), "target_std": list(spec.targets.std)}
    threshold = {} if spec.output.threshold is None else {"threshold": spec.output.threshold}
    return {**({"columns": columns} if columns else {}), **(moments if spec.targets.std else {}), **threshold}


def decode_trained_data(value: Any) -> dict[str, Any]:
    """Return the digest and the sizes of the data of a training; empty if `value` does not have them."""
    return dict(value) if isinstance(value, dict) and isinstance(value.get("digest"), str) else {}


def decode_model_spec(
    *,
    input_shape: Any,
    mean: Any,
    std: Any,
    names: Any,
    targets: Any,
    output_name: Any,
    output_shape: Any,
    extra: Mapping[str, Any],
) -> ModelSpec:
    """Return the specification in plain JSON values; `extra` has those of `encode_extra_values`.

    Raises ValueError, which names the value, if one has the wrong type, length or range.
    """
    if "vocabulary" in extra:
        return decode_token_spec(input_shape, names, targets, output_name, output_shape, extra)
    columns = _decode_columns(extra["columns"]) if "columns" in extra else ()
    shape = _decode_sizes("the input size", input_shape, length=1 if columns else 3)
    if columns and len(columns) != shape[0]:
        raise ValueError(f"the input size must be {len(columns)}, the number of columns")
    name_list = _check_list("the class names", names)
    if not all(isinstance(name, str) for name in name_list):
        raise ValueError("the class names must be texts")
    kinds = {kind.name.lower(): kind for kind in TargetKind}
    if not isinstance(targets, str) or targets not in kinds:
        raise ValueError(f"targets must be one of {', '.join(kinds)}, not {_shorten(targets)}")
    if not isinstance(output_name, str):
        raise ValueError(f"the name of the output must be a text, not {_shorten(output_name)}")
    moments: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if "target_std" in extra:
        moments = (
            _decode_numbers("target_mean", extra.get("target_mean"), len(name_list)),
            _decode_numbers("target_std", extra["target_std"], len(name_list), is_positive=True),
        )
    return ModelSpec(
        InputSpec(
            shape,
            _decode_numbers("mean", mean, shape[0]),
            _decode_numbers("std", std, shape[0], is_positive=True),
            columns,
        ),
        TargetSpec(tuple(name_list), kinds[targets], *moments),
        OutputSpec(
            tuple(name_list),
            _decode_sizes("the output's shape", output_shape),
            output_name,
            *moments,
            threshold=_decode_threshold(extra.get("threshold")),
        ),
    )


def decode_token_spec(
    input_shape: Any, names: Any, targets: Any, output_name: Any, output_shape: Any, extra: Mapping[str, Any]
) -> ModelSpec:
    """Return the specification of a model that reads text. Raises ValueError as `decode_model_spec` does."""
    vocabulary, shape = decode_vocabulary(extra["vocabulary"]), _decode_sizes("the input size", input_shape, length=1)
    isolates = extra.get("isolates_documents")
    if not isinstance(isolates, bool) or (isolates and not vocabulary.separates):
        raise ValueError("isolates_documents must be true or false, and false without a separator")
    kinds = {"tokens": TargetKind.TOKENS, "class": TargetKind.CLASS}
    if targets not in kinds or not isinstance(output_name, str):
        raise ValueError(f"targets must be one of {', '.join(kinds)}, not {_shorten(targets)}")
    kind, output_sizes = kinds[targets], _decode_sizes("the output's shape", output_shape)
    name_list = [] if kind is TargetKind.TOKENS else _check_list("the class names", names)
    if not all(isinstance(name, str) for name in name_list):
        raise ValueError("the class names must be texts")
    if kind is TargetKind.TOKENS and output_sizes != (*shape, vocabulary.size):
        raise ValueError(f"the output's shape must be {[*shape, vocabulary.size]}, by the vocabulary")
    return ModelSpec(
        InputSpec(shape, (), (), vocabulary=vocabulary, isolates_documents=isolates),
        TargetSpec(tuple(name_list), kind),
        OutputSpec(tuple(name_list), output_sizes, output_name, axis=len(output_sizes) - 1),
    )


def decode_vocabulary(value: Any) -> Vocabulary:
    """Return a vocabulary. Raises ValueError as `decode_model_spec` does."""
    if not isinstance(value, dict) or value.get("kind") not in ("byte", "char", "bpe"):
        raise ValueError("the vocabulary must have one of the kinds byte, char, bpe")
    characters, merges, separates = value.get("characters"), value.get("merges"), value.get("separates")
    if not isinstance(characters, str) or len(set(characters)) != len(characters) or len(characters) > 0x110000:
        raise ValueError("the characters of the vocabulary must be a text in which each comes once")
    if not isinstance(separates, bool) or not isinstance(merges, list) or len(merges) > _MAX_SIZE:
        raise ValueError("the vocabulary must have a list of merges, and separates, which is true or false")
    pairs: list[tuple[int, int]] = []
    for pair in merges:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(item) is int and 0 <= item < 256 + len(pairs) for item in pair):
            raise ValueError(f"merge {len(pairs)} of the vocabulary must join two tokens before it")
        pairs.append((pair[0], pair[1]))
    if (value["kind"] == "char") != bool(characters) or (value["kind"] != "bpe" and pairs):
        raise ValueError(f"a vocabulary of the kind {value['kind']} has other parts")
    return Vocabulary(value["kind"], characters, tuple(pairs), separates)


def _decode_threshold(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, float) or not 0 < value < 1:
        raise ValueError(f"threshold must be a number between 0 and 1, not {_shorten(value)}")
    return value


def _decode_columns(value: Any) -> tuple[Column, ...]:
    kinds = {kind.value: kind for kind in ColumnKind}
    columns = []
    for column in _check_list("columns", value):
        if not isinstance(column, dict) or not isinstance(column.get("name"), str) or column.get("kind") not in kinds:
            raise ValueError(f"columns must have a name and one of the kinds {', '.join(kinds)}")
        categories = column.get("categories")
        if not isinstance(categories, list) or not all(isinstance(category, str) for category in categories):
            raise ValueError(f"the categories of the column {_shorten(column['name'])} must be texts")
        columns.append(Column(column["name"], kinds[column["kind"]], tuple(categories)))
    return tuple(columns)


def _decode_sizes(subject: str, value: Any, length: int | None = None) -> tuple[int, ...]:
    sizes = _check_list(subject, value, length)
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _MAX_SIZE:
            raise ValueError(f"{subject} must be whole numbers from 1 to {_MAX_SIZE}, not {_shorten(size)}")
    if math.prod(sizes) > _MAX_VALUES:
        raise ValueError(f"{subject} must be at most {_MAX_VALUES} values")
    return tuple(sizes)


def _decode_numbers(subject: str, value: Any, length: int, is_positive: bool = False) -> tuple[float, ...]:
    numbers = _check_list(subject, value, length)
    for number in numbers:
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= 1e30
        if not is_number or (is_positive and number <= 0):
            needed = "numbers above 0" if is_positive else "numbers"
            raise ValueError(f"{subject} must be finite {needed}, not {_shorten(number)}")
    return tuple(float(number) for number in numbers)


def _check_list(subject: str, value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{subject} must be a list, not {_shorten(value)}")
    if length is not None and len(value) != length:
        raise ValueError(f"{subject} must be a list of {length}, not of {len(value)}")
    return list(value)


def _shorten(value: Any) -> str:
    """Return a value for a message; a long or deeply nested one is described by its type."""
    if isinstance(value, (bool, float)) or value is None or (isinstance(value, int) and abs(value) < 10**30):
        return str(value)
    if isinstance(value, str):
        return repr(value[:40])
    return f"a value of type {type(value).__name__}"
