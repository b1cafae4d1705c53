"""Find settings that name a file or a folder that cannot be used. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dnntrain.choices.distill._teacher_path import check_teacher_path
from dnntrain.config.paths import find_paths, is_path
from dnntrain.config.run_config import LightConfig
from dnntrain.errors import CheckpointError, ConfigError, DnntrainError
from dnntrain.input.read_errors import explain_unreadable_data
from dnntrain.nn.model_paths import find_model_file, has_checkpoint
from dnntrain.protocols import DataChoice
from dnntrain.utils.files import find_data_file, holds_runs
from dnntrain.utils.suggest import format_path

#: The options of choices whose `file` is run as code; the data check their own.
CODE_KEYS = ("model", "task", "optim", "sched", "augment.custom")

#: Bytes of the longest path of a file inside of a run directory.
_LONGEST_FILE = 200


def find_path_errors(config: LightConfig, plan_only: bool = False) -> list[DnntrainError]:
    """Return the error of each path that cannot be used. A plan writes no run directory."""
    checks: list[Callable[[], object]] = [lambda: _check_data(config.data), config.task.check_files]
    if not _has_checkpoint(config):
        checks.append(lambda: _check_init_from(config.init_from))
    checks += [lambda: _check_resume(config.resume), lambda: _check_teachers(config)]
    checks += [partial(_check_code_file, config, key) for key in CODE_KEYS]
    if not plan_only:
        checks.append(lambda: check_run_dir(config.run_dir, config.name))
    return list(_collect_errors(checks))


def _collect_errors(checks: list[Callable[[], object]]) -> Iterator[DnntrainError]:
    for check in checks:
        try:
            check()
        except DnntrainError as error:
            yield error


def _check_data(data: DataChoice) -> None:
    with explain_unreadable_data():
        data.check_files()


def check_run_dir(run_dir: str | None, name: str) -> None:
    """Raise ConfigError if the run directory cannot be created or written, or holds data."""
    setting = f"run_dir={_shorten(format_path(Path(run_dir)))}" if run_dir else str(Path("runs").absolute() / name)
    try:
        path = Path(run_dir).expanduser().absolute() if run_dir else Path("runs").absolute() / name
        place = next((folder for folder in (path, *path.parents) if os.path.lexists(folder)), Path(path.anchor))
        if not place.is_dir():
            raise ConfigError(
                f"{setting} cannot be created: {place} is not a folder", "name a folder that can be written"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{setting} cannot be written: no permission for {place}", "name a folder that can be written"
            )
        _check_lengths(path, place, setting)
        if place != path:
            _try_folder(place)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{setting} cannot be created: {reason}", "name a folder that can be written") from None
    if run_dir:
        check_holds_no_data(path)


def check_holds_no_data(path: Path) -> None:
    """Check that the new run directory `path` is not a folder of data, which the run would fill.

    A folder of several runs may hold pictures of the user. Run directories in the folder, hidden folders
    and files of other kinds do not count. Raises ConfigError.
    """
    if path.is_dir() and not holds_runs(path) and (file := find_data_file(path)) is not None:
        raise ConfigError(
            f"run_dir={format_path(path)} holds data: {file.relative_to(path)}",
            f"name a folder of its own, such as run_dir=runs/{path.name}",
        )


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]}…{text[-60:]}"


def _check_lengths(path: Path, place: Path, setting: str) -> None:
    """Raise ConfigError if a name is longer than the file system of `place` allows, or the path with its files."""
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > (limit := os.pathconf(place, "PC_NAME_MAX")):
        raise ConfigError(
            f"{setting} cannot be created: a name of {longest} bytes is longer than the {limit} that the file system "
            "allows",
            "use a shorter name",
        )
    size = len(os.fsencode(path)) + _LONGEST_FILE
    if size > (limit := os.pathconf(place, "PC_PATH_MAX")):
        raise ConfigError(
            f"{setting} cannot be created: paths of its files would have {size} bytes, and the limit is {limit}",
            "use a shorter path",
        )


def _try_folder(place: Path) -> None:
    """Create an empty folder in `place` and remove it. Raises OSError; permissions alone do not say all."""
    Path(tempfile.mkdtemp(prefix=".dnntrain-", dir=place)).rmdir()


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


def _check_code_file(config: LightConfig, key: str) -> None:
    """Check the file of a choice of the user's own, as `model` or `augment.custom`."""
    group, _, name = key.partition(".")
    options = config.resolved[group]
    file = (options.get(name, {}) if name else options).get("file")
    if isinstance(file, str) and not Path(file).expanduser().is_file():
        raise ConfigError(f"{key}.file={file} is not a file")


def _check_teachers(config: LightConfig) -> None:
    for key, value in find_paths(config.resolved):
        if key == "distill.teacher":
            for source in filter(is_path, value if isinstance(value, list) else [value]):
                try:
                    check_teacher_path(source)
                except ConfigError as error:
                    raise ConfigError(f"{key}={source}: {error.message}", error.hint) from None
