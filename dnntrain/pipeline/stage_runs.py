"""The runs of a pipeline's stages: their folders, whether they are done, and whether their inputs are stale.

A finished run has stage.json, which is sealed: its key, and the digests of its model and of the
models that it took. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.errors import ConfigError
from dnntrain.export.manifest import EXPORT_SUFFIXES
from dnntrain.utils.sealed_json import read_intact_json, read_sealed_json, write_sealed_json

RECORD_FILE = "stage.json"
_MODEL_FILE = "model.safetensors"

Status = Literal["waiting", "broken off", "done"]


@dataclass(frozen=True)
class StageRun:
    """One run of a stage.

    number  the number of its seed from 0
    words   all words of its configuration
    config  its resolved configuration
    key     the key of its content (`keys.py`), which names its folder
    inputs  input → the run that it takes it from
    """

    stage: str
    number: int
    words: tuple[str, ...]
    config: Mapping[str, Any]
    key: str
    folder: Path
    inputs: Mapping[str, StageRun]

    @property
    def label(self) -> str:
        """The stage, with the seed if it is not the first."""
        return self.stage if self.number == 0 else f"{self.stage}, seed {self.config['seed']}"


def make_folder_name(stage: str, number: int, key: str) -> str:
    """Return the name of a run's folder: `student-1a2b3c4d`, or `student-2-…` for the second seed."""
    return f"{stage}{f'-{number + 1}' if number else ''}-{key[:8]}"


def read_stage_status(run: StageRun) -> tuple[Status, int]:
    """Return the status of a run, and its last step."""
    result = read_intact_json(run.folder / "result.json")
    steps = result.get("steps")
    step = steps if isinstance(steps, int) else 0
    if result.get("status") == "done" and read_record(run.folder).get("key") == run.key:
        return "done", step
    has_begun = (run.folder / "checkpoints" / "LAST").is_file() or (run.folder / "metrics.jsonl").is_file()
    return ("broken off" if has_begun else "waiting"), step


def read_record(folder: Path) -> dict[str, Any]:
    """Return stage.json; empty if there is none. Raises CheckpointError if it was altered."""
    return read_sealed_json(folder / RECORD_FILE, f"to make the stage again, delete {folder}")


def write_record(run: StageRun, code: str) -> None:
    """Write stage.json of a finished run."""
    result = read_intact_json(run.folder / "result.json")
    write_sealed_json(
        run.folder / RECORD_FILE,
        {
            "schema": 1,
            "stage": run.stage,
            "seed": run.config["seed"],
            "key": run.key,
            "code": code,
            "config": result.get("config_digest"),
            "weights": result.get("digest"),
            "model": compute_file_digest(run.folder / _MODEL_FILE),
            "exports": digest_exports(run.folder),
            "inputs": {
                option: {"stage": source.stage, "key": source.key, "model": read_record(source.folder).get("model")}
                for option, source in run.inputs.items()
            },
        },
    )


def digest_exports(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each exported model file of a run, by its path in the folder.

    Manifests do not count, because they hold measured times.
    """
    paths = sorted((folder / "exports").rglob("*"))
    files = [path for path in paths if path.is_file() and path.suffix in EXPORT_SUFFIXES]
    return {str(path.relative_to(folder)): compute_file_digest(path) for path in files}


def find_stale(runs: Sequence[StageRun]) -> list[str]:
    """Return a mistake for each finished run whose model was changed, or was made from another one."""
    mistakes = []
    models: dict[str, str] = {}
    for run in runs:
        record = read_record(run.folder) if read_stage_status(run)[0] == "done" else {}
        if not record:
            continue
        hint = f"to make it again, delete {run.folder}"
        if changed := _find_changed_files(run.folder, record):
            mistakes += [f"stage {run.label}: {text}\n     {hint}, or restore the file" for text in changed]
            continue
        models[run.key] = record["model"]
        for option, source in run.inputs.items():
            used, current = record["inputs"].get(option, {}).get("model"), models.get(source.key)
            if current is not None and used != current:
                mistakes.append(
                    f"stage {run.label} is stale: it was made from model {str(used)[:8]} of stage {source.label}, "
                    f"which now has model {current[:8]}\n     {hint}"
                )
    return mistakes


def _find_changed_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Return a text for each model file of a finished run that is missing or was changed."""
    texts = []
    for name, digest in {_MODEL_FILE: record.get("model"), **record.get("exports", {})}.items():
        path = folder / name
        if not path.is_file():
            texts.append(f"{path} is missing")
        elif compute_file_digest(path) != digest:
            texts.append(f"{path} was changed after the stage was done")
    return texts


def check_stale(runs: Sequence[StageRun]) -> None:
    """Raise ConfigError if a finished run does not belong to the present models of its inputs."""
    if mistakes := find_stale(runs):
        raise ConfigError.from_mistakes(mistakes)
