"""Compare the saved configuration with the resumed one, and reject forbidden changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.build_choice import decode_choice
from dnntrain.config.compose import compose
from dnntrain.config.groups import LISTS, SINGLE
from dnntrain.config.paths import make_paths_absolute
from dnntrain.config.run_config import RunConfig
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import decode_foreign
from dnntrain.planning.checks.early import check_resumed_run
from dnntrain.protocols import MonitorChoice
from dnntrain.utils.world import World

#: Keys that may change on resume: they steer length, bookkeeping and devices, not the learned
#: state.
_CHANGEABLE_KEYS = (
    "train.duration",
    "train.cpu_threads",
    "train.compile",
    "train.batch_size",
    "train.micro_batch_size",
    "train.drop_last",
    "train.profile",
    "eval.every",
    "eval.batch_size",
    "eval.metric",
    "eval.run_test",
    "eval.weights",
    "checkpoint",
    "log",
    "track",
    "launch",
    "cluster",
    "parallel",
    "device",
    "name",
    "run_dir",
    "resume",
    "data.root",
    "data.num_workers",
    "data.pipeline",
    "data.download",
    "choices",
    "distill.cache",
    "distill.cache_dir",
    "distill.cache_size_gb",
    "federated.rounds",
)

#: Why other keys may not change.
_REASONS = {
    "model": "the saved weights are of another architecture; start a new run with init_from= instead",
    "norm": "the saved weights are of another architecture; start a new run with init_from= instead",
    "data": "the position in the epoch and the metrics belong to the saved data",
    "optim": "the saved optimizer state belongs to the saved optimizer",
    "seed": "all random choices so far depend on the saved seed",
    "eval": "the best value so far was measured on other examples",
    "init_from": "the run already has trained weights",
    "init_replace_head": "the run already has trained weights",
    "init_prefix": "the run already has trained weights",
}


def compose_resumed(
    path: Path, overrides: Sequence[str], config_dir: Path | None = None, *, trust: bool = False
) -> tuple[RunConfig, list[Change]]:
    """Return the configuration that resumes the run `path`, and its differences from the saved one.

    It is the saved one, changed by `overrides` alone. `trust` lets it use the code that it names.
    Raises ConfigError for a change that is not allowed.
    """
    saved_config = read_saved_config(path)
    container = {**compose(overrides, config_dir, saved=saved_config), "run_dir": str(path), "resume": "auto"}
    check_resumed_run(container, World.from_environ())
    config = decode_foreign(container, path, overrides, trust=trust, groups=(*SINGLE, *LISTS))
    if reasons := find_refusals(saved_config, config.resolved):
        raise ConfigError.from_mistakes(reasons)
    changes = find_changes(saved_config, config.resolved)
    return config, [change for change in changes if change.key not in ("run_dir", "resume")]


@dataclass(frozen=True)
class Change:
    """One key whose value differs; `reason` is empty if the change is allowed."""

    key: str
    old: Any
    new: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {_format_value(self.old)} → {_format_value(self.new)}"


def find_changes(saved_config: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return every key in which two resolved configurations differ.

    A group with another choice counts as one key, because its options are others.
    """
    # A path may be saved as it was typed.
    old_values, new_values = dict(_flatten(make_paths_absolute(saved_config))), dict(_flatten(new))
    changes_by_key: dict[str, Change] = {}
    for key in sorted({*old_values, *new_values}):
        old, new_value = old_values.get(key), new_values.get(key)
        if old == new_value or key.startswith("choices."):
            continue
        reason = "" if _is_replayed(key, saved_config, new) else _get_refusal_reason(key)
        change = Change(key, old, new_value, reason)
        choice_change = _find_choice_change(key, saved_config, new)
        if choice_change is not None:
            change = Change(
                choice_change.key,
                choice_change.old,
                choice_change.new,
                changes_by_key.get(choice_change.key, change).reason or change.reason,
            )
        changes_by_key[change.key] = change
    return list(changes_by_key.values())


def find_refusals(saved_config: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one message for each forbidden change; the last one adds the remedy."""
    mistakes = [
        f"{change}\n     cannot change on resume: {change.reason}"
        for change in find_changes(saved_config, new)
        if change.reason
    ]
    if mistakes:
        mistakes[-1] += "\n  keep the saved value, or start a new run in another run_dir"
    return mistakes


def _find_choice_change(key: str, saved_config: Mapping[str, Any], new: Mapping[str, Any]) -> Change | None:
    """Return the change of choice that includes the change of `key`.

    None if both configurations have the choice.
    """
    group, _, rest = key.partition(".")
    old, now = (config.get("choices", {}).get(group) for config in (saved_config, new))
    if not rest or old == now:
        return None
    if isinstance(old, str) or isinstance(now, str):
        return Change(group, old, now, "")
    method = rest.partition(".")[0]
    if (method in saved_config.get(group, {})) and (method in new.get(group, {})):
        return None
    return Change(group, f"[{','.join(old or ())}]", f"[{','.join(now or ())}]", "")


def _is_replayed(key: str, *configs: Mapping[str, Any]) -> bool:
    """Return whether `key` is of a monitor that reads all rows again if its options change."""
    group, _, rest = key.partition(".")
    method = rest.partition(".")[0]
    if group != "monitor" or not method:
        return False
    options = next(config[group][method] for config in configs if method in config.get(group, {}))
    choice: MonitorChoice = decode_choice(group, method, options)
    return choice.is_replayed


def _get_refusal_reason(key: str) -> str:
    if any(key == changeable or key.startswith(f"{changeable}.") for changeable in _CHANGEABLE_KEYS):
        return ""
    if key == "optim.lr":
        return ""
    group = key.split(".")[0]
    return _REASONS.get(group, "the steps so far used the saved value")


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flatten(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", entry


def _format_value(value: Any) -> str:
    return "(unset)" if value is None else str(value)
