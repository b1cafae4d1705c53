"""What may change between a saved run and its continuation, and what may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.config.paths import with_whole_paths

#: Keys that may change when a run goes on: they steer its length, its bookkeeping and where it runs, not what is learnt so far.
_FREE = (
    "train.duration",
    "train.threads",
    "train.compile",
    "train.microbatch",
    "eval",
    "checkpoint",
    "log",
    "track",
    "launch",
    "parallel",
    "device",
    "name",
    "run_dir",
    "resume",
    "data.root",
    "data.workers",
    "data.pipeline",
    "data.download",
    "choices",
    "distill.cache",
    "distill.cache_dir",
    "distill.cache_gb",
)

#: Why the others may not.
_REASONS = {
    "model": "the saved weights are of another architecture; start a new run with init_from= instead",
    "norm": "the saved weights are of another architecture; start a new run with init_from= instead",
    "data": "the position in the epoch and the metrics belong to the saved data",
    "optim": "the saved optimizer state belongs to the saved optimizer",
    "seed": "every random choice so far followed from the saved seed",
    "init_from": "the run has its own weights by now",
    "init_replace_head": "the run has its own weights by now",
}


@dataclass(frozen=True)
class Change:
    """One key whose value differs; `reason` is empty where the change is allowed."""

    key: str
    old: Any
    new: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.old)} → {_short(self.new)}"


def changes(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every key in which two resolved configurations differ; a group with another choice is one, for its knobs are others."""
    # A path may be saved as it was typed.
    old_values, new_values = dict(_flat(with_whole_paths(saved))), dict(_flat(new))
    found: dict[str, Change] = {}
    for key in sorted({*old_values, *new_values}):
        old, new_value = old_values.get(key), new_values.get(key)
        if old == new_value or key.startswith("choices."):
            continue
        change = Change(key, old, new_value, _reason(key))
        chosen = _chosen(key, saved, new)
        if chosen is not None:
            change = Change(chosen.key, chosen.old, chosen.new, found.get(chosen.key, change).reason or change.reason)
        found[change.key] = change
    return list(found.values())


def refused(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One message for each change that a continuation cannot take; the last one says the way out."""
    mistakes = [
        f"{change}\n     cannot change in a run that goes on: {change.reason}"
        for change in changes(saved, new)
        if change.reason
    ]
    if mistakes:
        mistakes[-1] += "\n  leave it as it was, or train anew in another run_dir"
    return mistakes


def _chosen(key: str, saved: Mapping[str, Any], new: Mapping[str, Any]) -> Change | None:
    """The change of choice that the change of `key` is a part of; None where what it belongs to is chosen in both."""
    group, _, rest = key.partition(".")
    old, now = (config.get("choices", {}).get(group) for config in (saved, new))
    if not rest or old == now:
        return None
    if isinstance(old, str) or isinstance(now, str):
        return Change(group, old, now, "")
    method = rest.partition(".")[0]
    if (method in saved.get(group, {})) and (method in new.get(group, {})):
        return None
    return Change(group, f"[{','.join(old or ())}]", f"[{','.join(now or ())}]", "")


def _reason(key: str) -> str:
    if any(key == free or key.startswith(f"{free}.") for free in _FREE):
        return ""
    if key == "optim.lr":
        return ""
    group = key.split(".")[0]
    return _REASONS.get(group, "the steps so far were made with the saved value")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _short(value: Any) -> str:
    return "(unset)" if value is None else str(value)
