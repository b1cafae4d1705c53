"""Find settings that name a file or a folder that cannot be used. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dnntrain.choices.distill._teacher_path import check_teacher_path
from dnntrain.config.paths import find_paths, is_path
from dnntrain.config.run_config import LightConfig
from dnntrain.errors import CheckpointError, ConfigError, DnntrainError
from dnntrain.nn.model_paths import find_model_file, has_checkpoint


def find_path_errors(config: LightConfig, plan_only: bool = False) -> list[DnntrainError]:
    """Return the error of each path that cannot be used. A plan writes no run directory."""
    checks: list[Callable[[], object]] = [config.data.check_files]
    if not _has_checkpoint(config):
        checks.append(lambda: _check_init_from(config.init_from))
    checks += [lambda: _check_resume(config.resume), lambda: _check_model_code(config), lambda: _check_teachers(config)]
    if not plan_only:
        checks.append(lambda: check_run_dir(config.run_dir, config.name))
    return list(_collect_errors(checks))


def _collect_errors(checks: list[Callable[[], object]]) -> Iterator[DnntrainError]:
    for check in checks:
        try:
            check()
        except DnntrainError as error:
            yield error


def check_run_dir(run_dir: str | None, name: str) -> None:
    """Raise ConfigError if the run directory cannot be created or written."""
    path = Path(run_dir).expanduser().absolute() if run_dir else Path("runs").absolute() / name
    place = next((folder for folder in (path, *path.parents) if os.path.lexists(folder)), Path(path.anchor))
    setting = f"run_dir={path}" if run_dir else f"{path}"
    if not place.is_dir():
        raise ConfigError(f"{setting} cannot be created: {place} is not a folder", "name a folder that can be written")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{setting} cannot be written: no permission for {place}", "name a folder that can be written"
        )


def _has_checkpoint(config: LightConfig) -> bool:
    """Return whether the run resumes, so that files of initial weights are not read."""
    if config.resume != "auto":
        return config.resume != "never"
    if config.run_dir is None:
        return False
    return any((Path(config.run_dir).expanduser() / "checkpoints").glob("step-*"))


def _check_init_from(text: str | None) -> None:
    """Check the file of initial weights. A run that is not done writes its model when it is read."""
    if text is not None and not has_checkpoint(Path(text)):
        find_model_file(Path(text))


def _check_resume(text: str) -> None:
    path = Path(text).expanduser()
    if text not in ("auto", "never") and not any(
        (path / name).is_file() for name in ("manifest.json", "checkpoints/LAST")
    ):
        raise CheckpointError(f"resume={text} is neither a checkpoint nor a run directory with one")


def _check_model_code(config: LightConfig) -> None:
    file = config.resolved["model"].get("file")
    if isinstance(file, str) and not Path(file).expanduser().is_file():
        raise ConfigError(f"model.file={file} is not a file")


def _check_teachers(config: LightConfig) -> None:
    for key, value in find_paths(config.resolved):
        if key == "distill.teacher":
            for source in filter(is_path, value if isinstance(value, list) else [value]):
                try:
                    check_teacher_path(source)
                except ConfigError as error:
                    raise ConfigError(f"{key}={source}: {error.message}", error.hint) from None
