"""Settings that `dnntrain tune speed` has found: the file `tuned.yaml`, and whether it fits a run.

A file belongs to hardware, versions, a network with its methods, and data; settings whose accuracy was
judged belong to the length of the run too. It holds overrides of a few keys only: those of speed, and
the scaling of the learning rate to the batch size.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.yaml_io import dump_yaml, read_yaml
from dnntrain.errors import ConfigError
from dnntrain.utils.files import write_text
from dnntrain.utils.hardware import count_cores
from dnntrain.utils.sealed_json import compute_json_digest
from dnntrain.utils.versions import read_version
from dnntrain.utils.words import get_key

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig
    from dnntrain.utils.hardware import Hardware

#: The setting that names a file, and the keys that a file may set.
TUNED_KEY = "tuned"
SPEED_KEYS = frozenset(
    {
        "data.decode",
        "data.num_workers",
        "data.pipeline",
        "optim.lr_base_batch_size",
        "optim.lr_scaling",
        "parallel.bucket_size_mb",
        "parallel.grad_compression",
        "precision",
        "train.activation_checkpointing",
        "train.batch_size",
        "train.channels_last",
        "train.compile",
        "train.cpu_threads",
        "train.micro_batch_size",
    }
)

#: Keys that belong to the batch size of a file.
_RATE_KEYS = frozenset({"optim.lr_base_batch_size", "optim.lr_scaling"})
#: Keys that a search may change, but that its result depends on otherwise.
_TIMED_KEYS = frozenset({"data.decode", "train.batch_size"})

#: Parts of a configuration that do not change the speed of a step.
_UNTIMED = frozenset(
    {
        "choices",
        "name",
        "run_dir",
        "resume",
        "seed",
        "log",
        "eval",
        "checkpoint",
        "track",
        "launch",
        "cluster",
        "precision",
    }
)
_UNTIMED_KEYS = (SPEED_KEYS - _TIMED_KEYS) | {"data.root", "data.download", "train.duration", "train.profile"}


@dataclass(frozen=True)
class TunedSettings:
    """The content of a file: overrides, the key that they belong to, and the evidence."""

    words: tuple[str, ...]
    key: Mapping[str, Any]
    evidence: Mapping[str, Any]
    path: Path = Path("tuned.yaml")

    def check(self, config: RunConfig, hardware: Hardware, data_digest: str, ranks: int) -> None:
        """Check that the settings belong to a run of so many ranks.

        Raises ConfigError if they were measured on other hardware, on another number of ranks, with other
        versions, another network or other data.
        """
        present = make_speed_key(config, hardware, data_digest, ranks, self.words, is_judged="length" in self.key)
        if differences := list(_list_key_differences(self.key, present)):
            raise ConfigError(
                f"{self.path} was measured for something else: {'; '.join(differences)}",
                f"measure again: dnntrain tune speed … --path {self.path}",
            )

    def check_without_session(self, config: RunConfig) -> None:
        """Check the same for a run that another process will open; this reads the data."""
        from dnntrain.planning.parallelism import count_ranks
        from dnntrain.utils.hardware import probe_hardware
        from dnntrain.utils.world import World

        hardware = probe_hardware(config.device)
        self.check(config, hardware, config.data.build().digest, count_ranks(config, hardware, World()))

    def write(self, path: Path) -> None:
        """Write the file."""
        values = {"words": list(self.words), "key": dict(self.key), "evidence": dict(self.evidence)}
        write_text(path, dump_yaml(values))


def make_speed_key(
    config: RunConfig,
    hardware: Hardware,
    data_digest: str,
    ranks: int,
    words: Sequence[str] = (),
    *,
    is_judged: bool = False,
) -> dict[str, Any]:
    """Return the facts that a measurement of speed depends on, besides the settings that it changes.

    `ranks` is the number of processes of the run. `words` are the overrides that the measurement found. With
    `is_judged` the length of the run is among the facts, since the accuracy depends on it.
    """
    network = {}
    changed_keys = _UNTIMED_KEYS | set(map(get_key, words))
    for section, values in config.resolved.items():
        if section in _UNTIMED:
            continue
        is_section = isinstance(values, dict)
        network[section] = (
            {name: value for name, value in values.items() if f"{section}.{name}" not in changed_keys}
            if is_section
            else values
        )
    return {
        "hardware": {
            "device": hardware.device,
            "name": hardware.device_name,
            "processor": hardware.cpu_model,
            "cores": count_cores(),
            "ranks": ranks,
            "devices": min(ranks, hardware.device_count),
        },
        "versions": {
            **{package: read_version(package) or "" for package in ("dnntrain", "torch")},
            "python": platform.python_version(),
        },
        "network": compute_json_digest(network),
        "data": data_digest,
        **({"length": config.resolved["train"]["duration"]} if is_judged else {}),
    }


def read_tuned_settings(path: Path) -> TunedSettings:
    """Read a file. Raises ConfigError if it is not one, or sets a key that is not about speed."""
    values = read_yaml(path).values
    words, key, evidence = (values.get(name) for name in ("words", "key", "evidence"))
    if not isinstance(words, list) or not isinstance(key, dict) or not isinstance(evidence, dict):
        raise ConfigError(
            f"{path} is not a file of dnntrain tune speed", f"make one: dnntrain tune speed --path {path}"
        )
    for word in words:
        if not isinstance(word, str) or get_key(word) not in SPEED_KEYS:
            raise ConfigError(
                f"{path} sets {word!r}; a file of tuned settings may set {', '.join(sorted(SPEED_KEYS))} only",
                "give other settings on the command line",
            )
    return TunedSettings(tuple(words), key, evidence, path)


def expand_tuned(overrides: Sequence[str]) -> tuple[tuple[str, ...], TunedSettings | None]:
    """Return the overrides with `tuned=FILE` replaced by the settings of the file, and the file's content.

    Other overrides take precedence. Whether the file belongs to the run is known with its data:
    `TunedSettings.check`. Raises ConfigError if the file is invalid.
    """
    files = [word.partition("=")[2] for word in overrides if get_key(word) == TUNED_KEY]
    if not files:
        return tuple(overrides), None
    if len(files) > 1:
        raise ConfigError("tuned= is given twice", "name one file")
    tuned = read_tuned_settings(Path(files[0]).expanduser())
    others = [word for word in overrides if get_key(word) != TUNED_KEY]
    given = set(map(get_key, others))
    if "train.batch_size" in given:
        given |= _RATE_KEYS  # they scale the learning rate to the batch size of the file
    return (*(word for word in tuned.words if get_key(word) not in given), *others), tuned


def _list_key_differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    differences = []
    for part, value in present.items():
        old = saved.get(part)
        if old == value:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            differences += [f"{name} {old.get(name)} → {item}" for name, item in value.items() if old.get(name) != item]
        else:
            differences.append(
                {
                    "network": "another network, batch size or method",
                    "data": "other data",
                    "length": "another length, on which the accuracy depends",
                }.get(part, part)
            )
    return differences
