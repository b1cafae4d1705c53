"""The folder of a sweep: its lock, the list of its trials, how each stands, and results.csv."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.decode import digest
from dnntrain.config.yaml_io import dump_yaml
from dnntrain.sweep.resources import Need
from dnntrain.utils.files import read_json, write_json, write_text
from dnntrain.utils.words import join_words

LIST = "sweep.json"
RESULTS = "results.csv"

#: Bytes at the end of metrics.jsonl in which the newest rows are looked for.
_TAIL_BYTES = 2**14


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its words, its resolved configuration (run_dir is `folder`), and what it takes."""

    number: int
    words: tuple[str, ...]
    swept: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path
    need: Need
    total_steps: int = 0

    @property
    def label(self) -> str:
        """What distinguishes it: `sched=step optim.lr=0.1`."""
        return " ".join(self.swept) or "the only trial"

    @property
    def metric(self) -> str:
        name: str = self.config["eval"]["metric"]
        return name

    @property
    def config_digest(self) -> str:
        return digest(self.config)


@dataclass
class Standing:
    """How a trial stands. `code` is the exit code of its process, None before it has ended."""

    status: str = "waiting"
    step: int = 0
    metric: float | None = None
    best: float | None = None
    value: float | None = None
    wall_s: float | None = None
    code: int | None = None
    reason: str = ""

    @property
    def done(self) -> bool:
        return self.status == "done"


def standing(trial: Trial) -> Standing:
    """How `trial` stands by the files of its folder: done, waiting, or broken off at a step."""
    result = read_json(trial.folder / "result.json")
    if result.get("status") == "done" and result.get("config_digest") == trial.config_digest:
        return _of_result("done", result, 0)
    found = Standing()
    refresh(found, trial)
    found.step = _of_result("", result, 0).step or found.step
    if found.step or (trial.folder / "checkpoints" / "LAST").is_file():
        found.status = "broken off"
    return found


def ended(trial: Trial, code: int) -> Standing:
    """How `trial` stands after its process has ended with `code` (negative: the signal that killed it)."""
    result = read_json(trial.folder / "result.json")
    status = str(result.get("status") or "")
    if code == 0 and status == "done":
        return _of_result("done", result, 0)
    if status in ("", "done"):
        status = {2: "refused", 4: "diverged", 75: "preempted", 130: "interrupted"}.get(code, "failed")
        status = "killed" if code < 0 else status
    found = _of_result(status, result, code)
    # The last row may be of an earlier step than the one that the run has ended after.
    steps = found.step
    refresh(found, trial)
    found.step = steps or found.step
    found.reason = found.reason or (f"by signal {-code}" if code < 0 else _last_word(trial.folder / "output.txt"))
    return found


def refresh(found: Standing, trial: Trial) -> None:
    """Takes the newest step and values from metrics.jsonl of the running `trial`."""
    for row in _newest_rows(trial.folder / "metrics.jsonl"):
        step, value = row.get("step"), row.get(trial.metric)
        if isinstance(step, int):
            found.step = step
        if row.get("split") == "val" and isinstance(value, int | float):
            found.metric = float(value)


def freeze(trial: Trial, config_dir: Path | None) -> None:
    """Makes the folder of `trial` with its configuration: what its process reads, and nothing else."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    replay = () if config_dir is None else (f"--config-dir={config_dir.absolute()}",)
    write_text(trial.folder / "config.yaml", dump_yaml(dict(trial.config)))
    write_text(trial.folder / "overrides.txt", join_words([*replay, *trial.words]))


def names_by_digest(folder: Path) -> dict[str, str]:
    """config digest → folder name of the trials that an earlier line has left in the folder of a sweep."""
    return {str(item.get("config_digest")): item["trial"] for item in _listed(folder)}


def trial_folders(folder: Path) -> list[Path] | None:
    """The run directories of the trials of a sweep that have begun, in their order; None where `folder` is no sweep's."""
    if not (folder / LIST).is_file():
        return None
    return [folder / item["trial"] for item in _listed(folder) if (folder / item["trial"] / "metrics.jsonl").is_file()]


def _listed(folder: Path) -> list[dict[str, Any]]:
    """The trials of sweep.json that name a folder directly below."""
    trials = read_json(folder / LIST).get("trials")
    items = [item for item in trials if isinstance(item, dict)] if isinstance(trials, list) else []
    names = [str(item.get("trial", "")) for item in items]
    return [
        {**item, "trial": name}
        for item, name in zip(items, names, strict=True)
        if "\0" not in name and name == Path(name).name and name not in ("", ".", "..")
    ]


def write_list(folder: Path, trials: Sequence[Trial]) -> None:
    """sweep.json: every trial by the name of its folder."""
    items = [
        {"trial": trial.folder.name, "swept": trial.swept, "words": trial.words, "config_digest": trial.config_digest}
        for trial in trials
    ]
    write_json(folder / LIST, {"schema": 1, "trials": items})


def write_results(folder: Path, trials: Sequence[Trial], standings: Sequence[Standing]) -> None:
    """results.csv: one row a trial; empty cells for what is not known (yet)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row(trials[0], standings[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row(trial, found) for trial, found in zip(trials, standings, strict=True))
    write_text(folder / RESULTS, text.getvalue())


def row(trial: Trial, found: Standing) -> dict[str, Any]:
    """One row of results.csv. `value` is the metric on the test split, `best` the best on the validation split."""
    return {
        "trial": trial.number,
        "overrides": trial.label if trial.swept else "",
        "status": found.status,
        "metric": trial.metric,
        "value": found.value,
        "best": found.best,
        "steps": found.step,
        "time_s": found.wall_s,
        "run_dir": str(trial.folder),
    }


def _of_result(status: str, result: Mapping[str, Any], code: int) -> Standing:
    def number(name: str) -> float | None:
        value = result.get(name)
        return float(value) if isinstance(value, int | float) else None

    reason = result.get("reason")
    return Standing(
        status=status,
        step=int(number("steps") or 0),
        best=number("best"),
        value=number("value"),
        wall_s=number("wall_s"),
        code=code,
        reason=str(reason) if reason else "",
    )


def _newest_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows at the end of a file of rows, in their order."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1 if size > _TAIL_BYTES else 0 :]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows


def _last_word(path: Path) -> str:
    """The last line in which dnntrain says why it ended, else the last line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[-_TAIL_BYTES:].splitlines()
    except OSError:
        return ""
    said = [line.removeprefix("dnntrain: ") for line in lines if line.startswith("dnntrain: ")]
    return (said or [line for line in lines if line.strip()] or [""])[-1][:300]
