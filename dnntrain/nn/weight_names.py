"""Map the names of a model file to the names of a model: prefixes of wrappers, and a chosen prefix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from dnntrain.errors import CheckpointError
from dnntrain.utils.terminal_text import clean_line

#: Prefixes that wrappers add to every name: DataParallel and DDP, Lightning and others.
_WRAPPERS = ("module.", "model.", "net.", "network.")

#: The most prefixes of a file that a message lists.
_MAX_LISTED = 8


@dataclass(frozen=True)
class NamePrefix:
    """A part of a file, and the part of the model that it is loaded into; "" is the whole."""

    file: str
    model: str

    @classmethod
    def parse(cls, text: str) -> NamePrefix:
        """Parse `init_prefix`: `backbone.`, or `encoder.:features.` for a part of the model."""
        file, _, model = text.partition(":")
        return cls(*(f"{part.rstrip('.')}." if part.rstrip(".") else "" for part in (file, model)))


def map_names(path: object, names: Iterable[str], targets: Iterable[str], prefix: NamePrefix | None) -> dict[str, str]:
    """Return name in the model → name in the file, for the names of a file, or those of its part `prefix`.

    A name that the model lacks is kept, so that it can be reported. Raises CheckpointError if two
    names of the file become one, or if no name has the prefix.
    """
    file_names = list(names)
    mapping = {name.replace("_orig_mod.", ""): name for name in file_names}
    if len(mapping) < len(file_names):
        raise CheckpointError(f"{path} holds names that differ in `_orig_mod.` only")
    known = set(targets)
    while not _has_prefix(mapping, prefix) and (wrapper := _find_wrapper(mapping, known)):
        mapping = {name.removeprefix(wrapper): file_name for name, file_name in mapping.items()}
    if prefix is None:
        return mapping
    part = {
        f"{prefix.model}{name.removeprefix(prefix.file)}": file_name
        for name, file_name in mapping.items()
        if name.startswith(prefix.file)
    }
    if not part:
        raise CheckpointError(
            f"{path}: no name begins with {prefix.file!r}; its names begin with {', '.join(list_prefixes(mapping))}",
            "choose one of these with init_prefix=",
        )
    return part


def _has_prefix(mapping: Mapping[str, str], prefix: NamePrefix | None) -> bool:
    """Return whether a chosen prefix is found, so that it is not part of a wrapper's."""
    return prefix is not None and prefix.file != "" and any(name.startswith(prefix.file) for name in mapping)


def _find_wrapper(names: Mapping[str, str], targets: set[str]) -> str | None:
    for wrapper in _WRAPPERS:
        if names and all(name.startswith(wrapper) for name in names):
            return None if any(name.startswith(wrapper) for name in targets) else wrapper
    return None


def list_prefixes(names: Iterable[str]) -> list[str]:
    """Return the first parts of names, as they may be printed."""
    prefixes = dict.fromkeys(f"{clean_line(name.partition('.')[0])[:40]}." for name in names)
    listed = list(islice(prefixes, _MAX_LISTED))
    return [*listed, "…"] if len(prefixes) > len(listed) else listed


def find_fitting_prefixes(
    shapes: Mapping[str, tuple[int, ...]], targets: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Return the prefixes under which a file holds all of `targets`, name → shape, with their shapes."""
    if not targets:
        return ()
    first = next(iter(targets))
    candidates = {name.removesuffix(first) for name in shapes if name.endswith(f".{first}")}
    return tuple(
        sorted(
            prefix
            for prefix in candidates
            if all(shapes.get(f"{prefix}{name}") == shape for name, shape in targets.items())
        )
    )


def suggest_nearest(name: str, others: list[str]) -> str:
    """Return a text with the nearest of `others` that has the same last part.

    Only the first 500 are searched.
    """
    suffix = name.rpartition(".")[2]
    matches = difflib.get_close_matches(name[:200], [other for other in others if other.endswith(suffix)][:500], 1, 0.6)
    return f" (nearest: {format_name(matches[0])})" if matches else ""


def format_name(name: str) -> str:
    """Return a name from a foreign file in a form that is safe for a terminal."""
    name = clean_line(name) or "''"
    return name if len(name) <= 80 else f"{name[:79]}…"


def format_shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"
