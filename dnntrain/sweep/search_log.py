"""Record a search in `search.json`: each proposed trial, each result and each early stop, in order.

The same questions and answers bring a sampler to the same state, so a killed search continues as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.sweep.samplers import Sampler, Values
from dnntrain.utils.sealed_json import read_sealed_json, write_sealed_json

LOG_FILE = "search.json"
JOURNAL_FILE = "optuna.journal.log"


@dataclass
class SearchLog:
    """The events of a search; `identity` states what it searches, and how."""

    folder: Path
    identity: Mapping[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> SearchLog:
        """Read the log of a folder, or begin one.

        Raises ConfigError if the folder holds another search, CheckpointError if its log is damaged.
        """
        path = folder / LOG_FILE
        if not path.exists():
            return cls(folder, identity)
        saved = read_sealed_json(path)
        if saved.get("search") != dict(identity):
            raise ConfigError(
                f"{folder} holds another search", "name another run_dir, or type the same line to continue it"
            )
        events = saved.get("events")
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise CheckpointError(f"{path} is damaged: it lists no events", "restore it from a copy")
        return cls(folder, identity, events)

    def append(self, event: Mapping[str, Any]) -> None:
        """Record an event, on disk before anything follows from it."""
        self.events.append(dict(event))
        write_sealed_json(self.folder / LOG_FILE, {"search": dict(self.identity), "events": self.events})

    def ask(self, sampler: Sampler) -> Values | None:
        """Ask for the values of the next trial, and record them."""
        values = sampler.ask()
        if values is not None:
            self.append({"ask": len(self.list_values()), "values": dict(values)})
        return values

    def tell(self, sampler: Sampler, trial: int, results: Sequence[float] | None) -> None:
        """Record the results of a trial; None: it failed."""
        self.append({"tell": trial, "results": None if results is None else list(results)})
        _apply(sampler, self.events[-1])

    def stop(self, sampler: Sampler, trial: int, step: int, value: float) -> None:
        """Record that a trial is stopped early."""
        self.append({"stop": trial, "step": step, "value": value})
        _apply(sampler, self.events[-1])

    def replay(self, sampler: Sampler) -> None:
        """Bring a new sampler to the state that the events led to.

        Raises ConfigError if it proposes other values than before.
        """
        for event in self.events:
            if "ask" not in event:
                _apply(sampler, event)
            elif (values := sampler.ask()) is None or dict(values) != event.get("values"):
                raise ConfigError(
                    f"{self.folder / LOG_FILE}: this version of optuna proposes other trials than the one before",
                    "install the version that began the search, or name another run_dir",
                )

    def list_values(self) -> list[Values]:
        """Return the values of all trials so far, in order."""
        return [event["values"] for event in self.events if "ask" in event]

    def get_stops(self) -> dict[int, tuple[int, float]]:
        """Return (step, best value) of the trials that were stopped early."""
        return {event["stop"]: (event["step"], event["value"]) for event in self.events if "stop" in event}

    def list_finished(self) -> Iterator[int]:
        """Yield the trials that have a result, have failed or were stopped."""
        yield from (event["tell"] for event in self.events if "tell" in event)
        yield from self.get_stops()


def _apply(sampler: Sampler, event: Mapping[str, Any]) -> None:
    if "stop" in event:
        sampler.tell_stopped(event["stop"], event["step"], event["value"])
    elif event["results"] is None:
        sampler.tell_failed(event["tell"])
    else:
        sampler.tell(event["tell"], event["results"])
