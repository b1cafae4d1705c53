"""Read and write YAML strictly: data only, unique keys, and the line of every key.

Numbers are read as OmegaConf reads them (`1e-3` is a number), so that a value means the same before
and after Hydra composes it. An error names file and line for: tags (`!!python/object`), duplicate
keys, merge keys, aliases that expand to more than 10,000 nodes, keys that are not text (`on:` is
the boolean true), files over 1 MiB, byte-order marks, and bytes that are not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from dnntrain.errors import ConfigError
from dnntrain.utils.files import read_text

_MAX_BYTES = 1 << 20
_MAX_NODES = 10_000
_MAX_DEPTH = 50
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """Safe loader that reads numbers as OmegaConf does, and reads no dates."""


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """Dumper that quotes every text that `_Loader` would read as another type."""


for _yaml_class in (_Loader, _Dumper):
    _yaml_class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
        for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
    }
    _yaml_class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class YamlFile:
    """One configuration file.

    It holds the head comment, `# @package`, the defaults list, the values and the line of each key.
    """

    path: Path
    doc: str
    package: str | None
    defaults: tuple[Any, ...]
    values: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    def get_location(self, key: tuple[str, ...]) -> str:
        """Return the location of `key`: `conf/optim/sgd.yaml:4`."""
        line = self.lines.get(key)
        return f"{format_path(self.path)}:{line}" if line else format_path(self.path)

    def iterate_leaves(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield every value that is not a mapping, and every empty mapping, with its keys."""
        return iterate_leaves(self.values)


def read_yaml(path: Path, follow_links: bool = True) -> YamlFile:
    """Read the file at `path`. Raises ConfigError that names file and line.

    A file of a run directory must not be a link: `follow_links` is False for it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{format_path(path)} cannot be read: {error.strerror}") from None
    return _parse_yaml_file(path, status.st_mtime_ns, status.st_size, follow_links)


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Return the mapping in `text`, and the line of each key.

    Raises ConfigError; messages name the file as `name`.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        location = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
        hint = "indent with spaces, not with tabs" if "'\\t'" in str(problem) else ""
        raise ConfigError(f"{location}: {problem}", hint) from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}:1: a configuration file must hold `key: value` lines")
    reader = _NodeConverter(name)
    values = reader.to_plain(node, ())
    return values, reader.lines


def dump_yaml(values: dict[str, Any]) -> str:
    """Return `values` as YAML text, in their order; `parse_yaml` reads back equal values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def iterate_leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value of nested mappings that is not a mapping (or is empty), with its keys."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from iterate_leaves(value, (*prefix, str(key)))
        else:
            yield (*prefix, str(key)), value


def format_path(path: Path) -> str:
    """Return `path` as a user would type it.

    The path is relative to the working folder, or to the folder that holds `dnntrain` or `conf`.
    """
    return _format_path(path, Path.cwd())


@lru_cache(maxsize=256)
def _format_path(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder`. Each key of a file asks for it, and links are read slowly."""
    for root in (folder, Path(__file__).resolve().parents[2]):
        try:
            return str(path.resolve().relative_to(root.resolve()))
        except (ValueError, OSError):
            continue
    return str(path)


@cache
def _parse_yaml_file(path: Path, modified_ns: int, size_bytes: int, follow_links: bool) -> YamlFile:
    if size_bytes > _MAX_BYTES:
        raise ConfigError(
            f"{format_path(path)} has {size_bytes} bytes; a configuration file must have at most {_MAX_BYTES}"
        )
    try:
        text = read_text(path, follow_links=follow_links)
    except OSError as error:
        raise ConfigError(f"{format_path(path)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{format_path(path)}: byte {error.start} is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise ConfigError(f"{format_path(path)} begins with a byte-order mark", "save it as UTF-8 without BOM")
    values, lines = parse_yaml(text, format_path(path))
    defaults = values.pop("defaults", None)
    if defaults is not None and not isinstance(defaults, list):
        raise ConfigError(f"{format_path(path)}:{lines[('defaults',)]}: defaults must be a list")
    head = [line for line in text.splitlines()[:10] if line.startswith("#")]
    package = next((match[1] for line in head if (match := re.match(r"#\s*@package\s+(\S+)", line))), None)
    doc = next((line.lstrip("# ") for line in head if not re.match(r"#\s*(@package|yaml-language-server)", line)), "")
    return YamlFile(path, doc, package, tuple(defaults or ()), values, lines)


class _NodeConverter:
    """Convert nodes into plain values, and limit the number of nodes that aliases expand to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node_count = 0
        self.lines: dict[tuple[str, ...], int] = {}

    def to_plain(self, node: Any, keys: tuple[str, ...]) -> Any:
        self.node_count += 1
        if self.node_count > _MAX_NODES or len(keys) > _MAX_DEPTH:
            raise ConfigError(
                f"{self._format_location(node)}: more than {_MAX_NODES} values; are aliases (*name) repeated?"
            )
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(
                f"{self._format_location(node)}: the tag {tag} is not supported",
                "a configuration is data: use plain values only",
            )
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.to_plain(item, (*keys, str(index))) for index, item in enumerate(node.value)]
        return self._convert_scalar(node)

    def _convert_mapping(self, node: Any, keys: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                hint = f"quote it: '{key_node.value}':" if isinstance(key_node, yaml.ScalarNode) else ""
                raise ConfigError(f"{self._format_location(key_node)}: the key {key_node.value!r} must be text", hint)
            key = key_node.value
            if key in values:
                raise ConfigError(f"{self._format_location(key_node)}: the key {key!r} occurs twice")
            self.lines[(*keys, key)] = key_node.start_mark.line + 1
            values[key] = self.to_plain(value_node, (*keys, key))
        return values

    def _convert_scalar(self, node: Any) -> Any:
        tag_name = node.tag.rpartition(":")[2]
        text = node.value
        try:
            if tag_name == "null":
                return None
            if tag_name == "bool":
                return text.lower() in ("yes", "true", "on")
            if tag_name == "int":
                return yaml.SafeLoader("").construct_yaml_int(node)
            if tag_name == "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as error:
            raise ConfigError(f"{self._format_location(node)}: {error}") from None
        return text

    def _format_location(self, node: Any) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"
