"""The line that a measurement is about: overrides, or a run directory with overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.utils.words import get_key

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig


@dataclass(frozen=True)
class Line:
    """Overrides to which a measurement adds words.

    run    the run whose saved configuration the overrides change; None: the defaults
    trust  run the code that the saved configuration names
    """

    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    run: Path | None = None
    trust: bool = False

    def decode(self, words: Sequence[str] = (), without: str = "") -> RunConfig:
        """Return the configuration with `words`; overrides of the choice `without`, as `reg.sam`, are left out.

        Raises ConfigError if it is invalid, or if the run names code that nobody trusts.
        """
        overrides = self.list_words(words, without)
        if self.run is None:
            return decode_config(compose(overrides, self.config_dir, quiet=True))
        from dnntrain.config.groups import LISTS, SINGLE
        from dnntrain.config.saved_config import read_saved_config
        from dnntrain.inference.run_args import decode_foreign
        from dnntrain.run.session import drop_init_weights

        saved = read_saved_config(self.run)
        container = compose(overrides, self.config_dir, saved=saved, quiet=True) if overrides else saved
        # The time of a step does not depend on the weights, and nothing of the run may be resumed.
        fresh = {**container, "run_dir": None, "resume": "never"}
        groups = (*SINGLE, *LISTS)
        return drop_init_weights(decode_foreign(fresh, self.run, overrides, trust=self.trust, groups=groups))

    def list_words(self, words: Sequence[str] = (), without: str = "") -> list[str]:
        """Return the overrides and `words`, less overrides of their keys and of the choice `without`."""
        replaced = set(map(get_key, words))
        kept = [word for word in self.overrides if get_key(word) not in replaced]
        return [*(word for word in kept if not without or not get_key(word).startswith(f"{without}.")), *words]

    def as_json(self) -> dict[str, Any]:
        """Return the line as plain values, for another process."""
        config_dir, run = (None if path is None else str(path) for path in (self.config_dir, self.run))
        return {"overrides": list(self.overrides), "config_dir": config_dir, "run": run, "trust": self.trust}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Line:
        """Return the line of `as_json`."""
        config_dir, run = (None if values[name] is None else Path(values[name]) for name in ("config_dir", "run"))
        return cls(tuple(values["overrides"]), config_dir, run, bool(values["trust"]))


def replace_words(words: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the words with those of `new`, which take the place of others of their keys."""
    keys = set(map(get_key, new))
    return [*(word for word in words if get_key(word) not in keys), *new]
