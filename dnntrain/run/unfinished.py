"""Write the best model so far of a run that is not done, so that everything that reads a run can use it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnntrain.checkpoint.checkpoint_folder import read_pointer
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.paths import find_paths
from dnntrain.config.run_config import RunConfig
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import DataError
from dnntrain.inference.run_args import (
    TRAINING_GROUPS,
    decode_foreign,
    find_download_refusal,
    get_given_keys,
    list_code_values,
)
from dnntrain.run.directory import lock_folder
from dnntrain.utils.downloads import forbid_downloads
from dnntrain.utils.json_files import read_json
from dnntrain.utils.world import World


def write_unfinished_model(path: Path, overrides: Sequence[str], trust: bool = False) -> None:
    """Write model.safetensors and config.json into the run directory `path` if its run is not done.

    They hold the weights that the run would evaluate if it ended now: the best ones, or the last
    ones before the first evaluation. Nothing happens for other folders, for a run that is done, and
    for a run without a checkpoint. `overrides` are those of the command line, which may name the code
    of the model; `trust` lets the run name it. Raises ConfigError if a process trains in the folder,
    DataError if the data of the run are missing or have changed.
    """
    name = _find_checkpoint(path)
    if name is None:
        return
    if not _is_written(path, name):
        config = _open_config(path, overrides, trust)
        with lock_folder(path), forbid_downloads(find_download_refusal(overrides)):
            _write_model(path, config, name)
    status = read_json(path / "result.json").get("status", "unfinished")
    print(
        f"note: {path} is not done (status: {status}); its model of {name.replace('-', ' ')} is used", file=sys.stderr
    )


#: The settings that name a run whose model is read.
_SOURCE_KEYS = ("init_from", "distill.teacher")


def write_models_of_sources(config: RunConfig) -> None:
    """Do so for the runs that a configuration names, as `init_from` or as a teacher."""
    known_code = list_code_values(config, TRAINING_GROUPS)
    for key, value in find_paths(config.resolved):
        if key not in _SOURCE_KEYS or (key == "init_from" and config.init_from is None):
            continue
        for item in value if isinstance(value, list) else [value]:
            try:
                path = Path(item).expanduser()
            except RuntimeError:  # no such user: the reader of the path reports it
                continue
            write_unfinished_model(path, (), trust=_names_only(path, known_code))


def _find_checkpoint(path: Path) -> str | None:
    """Return the name of the checkpoint with the best weights; None if the run is done, or has none."""
    if not (path / "config.yaml").is_file():
        return None
    is_done = read_json(path / "result.json").get("status") == "done"
    if is_done and (path / "model.safetensors").is_file():
        return None
    best, last = (read_pointer(path / "checkpoints", name) for name in ("BEST", "LAST"))
    if best is None or read_saved_config(path)["eval"]["weights"] == "last":
        return last
    return best


def _is_written(path: Path, checkpoint_name: str) -> bool:
    """Return whether the model in the run directory is the one of this checkpoint."""
    card = read_json(path / "config.json").get("dnntrain", {})
    return (path / "model.safetensors").is_file() and checkpoint_name == f"step-{card.get('step')}"


def _open_config(path: Path, overrides: Sequence[str], trust: bool) -> RunConfig:
    """Return the configuration of the run, whose code is the one that `overrides` name."""
    saved = read_saved_config(path)
    code_keys = list_code_values(decode_config(saved), TRAINING_GROUPS).keys()
    words = [word for word in overrides if get_given_keys([word]) & code_keys]
    container = compose(words, saved=saved) if words else saved
    return decode_foreign({**container, "run_dir": str(path)}, path, words, trust=trust, groups=TRAINING_GROUPS)


def _names_only(path: Path, known_code: Mapping[str, Any]) -> bool:
    """Return whether the run names no other code than `known_code`, which the user has named."""
    if not (path / "config.yaml").is_file():
        return False
    return list_code_values(decode_config(read_saved_config(path)), TRAINING_GROUPS).items() <= known_code.items()


def _write_model(path: Path, config: RunConfig, checkpoint_name: str) -> None:
    # A session looks for unfinished runs, too: a teacher may be one.
    from dnntrain.run.final_model import calibrate_outputs, load_final_model, save_final_model
    from dnntrain.run.session import drop_init_weights, open_session
    from dnntrain.training.evaluator import swap_in_eval_weights

    session = open_session(drop_init_weights(config), World(), plan_only=True)
    checkpoint = read_checkpoint(path / "checkpoints" / checkpoint_name)
    if checkpoint.digests.data != session.data.dataset.digest:
        raise DataError(
            f"the data set has changed since {path} was trained (digest {checkpoint.digests.data[:12]} → "
            f"{session.data.dataset.digest[:12]})",
            "restore the data: its model is not written yet, because the run is not done",
        )
    final_model = load_final_model(session.setup, checkpoint)
    with swap_in_eval_weights(final_model.hooks.eval_weights, final_model.model):
        save_final_model(calibrate_outputs(session, final_model), final_model, path)
