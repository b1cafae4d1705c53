"""Find the choices of each group by their files.

A choice of a group is `conf/GROUP/NAME.yaml`, beside the module `GROUP/NAME.py` that builds it. A
YAML without a module is a *preset*: its defaults list names another choice of the group, from which
it differs in some options. Three kinds of folders are searched, in this order:

1. dnntrain itself: `conf/` of a checkout, or `dnntrain/conf` of an installation;
2. packages named by entry points of the group `dnntrain.plugins`, with the same layout: `PACKAGE/reg/mine.py` and
   `PACKAGE/conf/reg/mine.yaml`;
3. the user's `--config-dir DIR`: YAML only, presets and experiments.

Nothing is imported: packages are located, their YAML is read, and their options are read from
source.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dnntrain.config.conf_folder import PACKAGE_FOLDER, find_conf_folder
from dnntrain.config.groups import GROUPS
from dnntrain.config.schema import PROTOCOLS_MODULE, ChoiceSchema, read_choice_schema
from dnntrain.config.yaml_io import YamlFile, format_path, read_yaml
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean


@dataclass(frozen=True)
class ChoiceSource:
    """A folder of YAML files, and the package of its modules (None for a user's own folder)."""

    conf: Path
    package: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Choice:
    """One choice of a group.

    `chain` holds its files from the base to the choice itself; `base` is the name of the first.
    `module` and `module_path` belong to the base; an overlay (experiment, debug) does not have a
    module.
    """

    group: str
    name: str
    base: str
    chain: tuple[YamlFile, ...]
    module: str | None = None
    module_path: Path | None = None

    @property
    def yaml(self) -> Path:
        """Return the file of the choice itself."""
        return self.chain[-1].path

    @property
    def doc(self) -> str:
        """Return the first line of the file's head comment, else of the dataclass."""
        return self.chain[-1].doc or (self.schema.doc if self.module_path else "")

    @property
    def schema(self) -> ChoiceSchema:
        """Return the typed options.

        Raises ConfigError if the module does not have the form of a choice.
        """
        if self.module_path is None:
            raise ConfigError(f"{self.group}={self.name} has no module; it only sets values")
        try:
            schema = read_choice_schema(self.module_path)
        except (ValueError, SyntaxError, OSError) as error:
            raise ConfigError(f"{self.group}={self.name} cannot be used: {error}") from None
        base = GROUPS[self.group].base
        if base not in schema.protocols:
            raise ConfigError(
                f"{self.group}={self.name} cannot be used: {self.module_path}: {schema.class_name} must inherit {base}",
                f"write `from {PROTOCOLS_MODULE} import {base}` and `class {schema.class_name}({base}):`",
            )
        return schema

    @property
    def key(self) -> str:
        """Return the key of the options of the choice: `optim`, or `augment.mixup`."""
        return self.group if GROUPS[self.group].single else f"{self.group}.{self.base}"

    def read_values(self) -> dict[str, Any]:
        """Return the value of every option in the YAML files, with unresolved interpolations."""
        merged: dict[str, Any] = {}
        for file in self.chain:
            merged.update(file.values)
        return merged


class Registry:
    """All choices of all groups in `sources`; earlier sources win."""

    def __init__(self, sources: tuple[ChoiceSource, ...], problems: tuple[str, ...] = ()) -> None:
        self.sources = sources
        self.problems = problems

    @property
    def root(self) -> Path:
        """Return the path of the root configuration, `config.yaml`."""
        return self.sources[0].conf / "config.yaml"

    def list_names(self, group: str) -> list[str]:
        """Return the names of the choices of `group`, in alphabetical order."""
        return sorted({path.stem for source in self.sources for path in _list_yaml_files(source.conf / group)})

    def get_choice(self, group: str, name: str) -> Choice:
        """Return the choice `name` of `group`.

        Raises ConfigError with the nearest name, or with the file at fault.
        """
        return self._build_choice(group, name, parents=())

    def get_choices(self, group: str) -> dict[str, Choice]:
        """Return all choices of `group` by name. Raises ConfigError if a file is at fault."""
        return {name: self.get_choice(group, name) for name in self.list_names(group)}

    def _build_choice(self, group: str, name: str, parents: tuple[str, ...]) -> Choice:
        path, source = self._locate_file(group, name)
        file = read_yaml(path)
        if GROUPS[group].overlay:
            return Choice(group, name, name, (file,))
        module_path = None if source.folder is None else source.folder / group / f"{name}.py"
        if module_path is not None and module_path.is_file():
            return Choice(group, name, name, (file,), f"{source.package}.{group}.{name}", module_path)
        parent = _get_parent_name(file, group, name, has_package=source.folder is not None)
        if parent in (*parents, name):
            raise ConfigError(f"{format_path(path)}: the presets {', '.join((*parents, name))} refer to each other")
        base = self._build_choice(group, parent, (*parents, name))
        return Choice(group, name, base.base, (*base.chain, file), base.module, base.module_path)

    def _locate_file(self, group: str, name: str) -> tuple[Path, ChoiceSource]:
        matches = [
            (path, source)
            for source in self.sources
            for path in _list_yaml_files(source.conf / group)
            if path.stem == name
        ]
        if not matches:
            names = self.list_names(group)
            folder = format_path(self.sources[0].conf / group)
            raise ConfigError(f"{group}={name}: there is no such choice; {did_you_mean(name, names)} (see {folder}/)")
        if len(matches) > 1:
            files = " and ".join(format_path(path) for path, _ in matches)
            raise ConfigError(f"{group}={name} is defined twice: {files}", "rename one of them")
        return matches[0]


def load_registry(config_dir: Path | None = None) -> Registry:
    """Return the registry of this installation, plug-ins and the user's folder.

    Raises ConfigError if `config_dir` is not a folder.
    """
    sources, problems = _find_sources()
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir} is not a folder")
        sources = (*sources, ChoiceSource(config_dir.resolve()))
    return Registry(sources, problems)


def get_builtin_source() -> ChoiceSource:
    """Return the source of dnntrain's own modules and YAML files.

    Raises ConfigError if the installation lacks its `conf` folder.
    """
    if (conf := find_conf_folder()) is not None:
        return ChoiceSource(conf, "dnntrain.choices", PACKAGE_FOLDER / "choices")
    raise ConfigError(f"the installation is incomplete: {PACKAGE_FOLDER}/conf/config.yaml is missing", "install again")


def _find_sources() -> tuple[tuple[ChoiceSource, ...], tuple[str, ...]]:
    sources, problems = [get_builtin_source()], []
    for entry in sorted(entry_points(group="dnntrain.plugins"), key=lambda entry: entry.name):
        folder = _find_package_folder(entry.value)
        if folder is None:
            problems.append(f"plug-in {entry.name}: the package {entry.value!r} was not found")
        else:
            sources.append(ChoiceSource(folder / "conf", entry.value, folder))
    return tuple(sources), tuple(problems)


def _find_package_folder(package: str) -> Path | None:
    """Return the folder of `package` without importing it or its parents."""
    first, *subpackages = package.split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location, *subpackages)
        if folder.is_dir():
            return folder
    return None


def _list_yaml_files(folder: Path) -> tuple[Path, ...]:
    try:
        return _list_yaml_files_at(folder, folder.stat().st_mtime_ns)
    except OSError:
        return ()


@cache
def _list_yaml_files_at(folder: Path, modified_ns: int) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.yaml")))


def _get_parent_name(file: YamlFile, group: str, name: str, has_package: bool) -> str:
    """Return the choice that a preset builds on.

    It is the one entry of the preset's defaults list besides `_self_`.
    """
    entries = [entry for entry in file.defaults if entry != "_self_"]
    if len(entries) == 1 and isinstance(entries[0], str) and file.defaults[0] != "_self_":
        return entries[0].removeprefix(f"/{group}/").partition("@")[0]
    module = f"no module {group}/{name}.py beside it and " if has_package else ""
    raise ConfigError(
        f"{format_path(file.path)}: {group}={name} has {module}no defaults list of a preset",
        f"begin a preset with `defaults: [CHOICE, _self_]`, where CHOICE is another choice of {group}",
    )
