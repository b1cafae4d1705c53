"""Read the typed fields of a choice from the *source* of its module.

A choice's module may import torch at its top, but the options must be known in milliseconds, before
torch is imported. Therefore the module is not imported: the dataclass is found in its syntax tree,
and only the annotations and defaults are evaluated, in the namespace of `fields.py`. A test
compares the result with the dataclass itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from dnntrain.config.fields import NAMESPACE

#: The package whose classes declare what a choice of a group may have. They declare no options.
PROTOCOLS_MODULE = "dnntrain.protocols"

_COMMENT = re.compile(r"\s*#\s*(.*)")

_FIELDLESS_MODULES = (PROTOCOLS_MODULE, "typing", "abc")

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()


@dataclass(frozen=True)
class FieldSchema:
    """One option: annotation, default (or REQUIRED), comment and location."""

    name: str
    type: Any
    default: Any
    doc: str
    path: Path
    line: int


@dataclass(frozen=True)
class ChoiceSchema:
    """The dataclass of one choice.

    It holds the class name, the first line of the docstring, the fields in order, and the bases of
    dnntrain.protocols.
    """

    class_name: str
    doc: str
    fields: dict[str, FieldSchema]
    path: Path
    label_key: str | None = None  # the key whose value names a run in place of the choice
    protocols: frozenset[str] = frozenset()
    constants: dict[str, Any] = field(default_factory=dict)  # class variables that are literals or sets of enum members


@cache
def read_choice_schema(path: Path) -> ChoiceSchema:
    """Return the choice that the module at `path` defines.

    The choice is the module's one public frozen dataclass with a `build` method. Raises ValueError
    that names the file if the module does not define exactly one.
    """
    tree = _parse(path)
    choice_nodes = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_choice_class(node)]
    if len(choice_nodes) != 1:
        names = ", ".join(node.name for node in choice_nodes) or "none"
        raise ValueError(
            f"{path}: a module of a choice must define exactly one public "
            f"@dataclass(frozen=True) with a build method; found {names}"
        )
    node = choice_nodes[0]
    fields, protocols = _read_fields(node, tree, path), frozenset(_find_protocols(node, tree, path))
    return ChoiceSchema(
        node.name,
        _get_doc_first_line(node),
        fields,
        path,
        _read_label_key(node),
        protocols,
        _read_constants(node, tree, path),
    )


def read_class_fields(path: Path, name: str) -> dict[str, FieldSchema]:
    """Return the fields of the dataclass `name` in the module at `path`.

    The fields of its base classes come first.
    """
    tree = _parse(path)
    return _read_fields(_get_class(name, tree, path), tree, path)


def _is_choice_class(node: ast.ClassDef) -> bool:
    if node.name.startswith("_"):
        return False
    is_frozen_dataclass = any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "dataclass"
        and any(keyword.arg == "frozen" for keyword in decorator.keywords)
        for decorator in node.decorator_list
    )
    return is_frozen_dataclass and any(isinstance(item, ast.FunctionDef) and item.name == "build" for item in node.body)


def _read_fields(node: ast.ClassDef, tree: ast.Module, path: Path) -> dict[str, FieldSchema]:
    fields: dict[str, FieldSchema] = {}
    for item, file in _iterate_variables(node, tree, path):
        if not isinstance(item.target, ast.Name) or "ClassVar" in ast.unparse(item.annotation):
            continue
        fields[item.target.id] = FieldSchema(
            name=item.target.id,
            type=_evaluate_expression(item.annotation, file),
            default=REQUIRED if item.value is None else _evaluate_expression(item.value, file),
            doc=_read_field_comment(item, file),
            path=file,
            line=item.lineno,
        )
    return fields


def _read_constants(node: ast.ClassDef, tree: ast.Module, path: Path) -> dict[str, Any]:
    """Return the class variables that are literals or sets of enum members, of the class and of its bases.

    Members are returned by their names, such as "TaskFeature.CLASS_LOGITS". A method of the class
    takes the place of a variable of a base.
    """
    constants: dict[str, Any] = {}
    for item, _ in _iterate_variables(node, tree, path):
        if "ClassVar" in ast.unparse(item.annotation) and item.value is not None:
            try:
                constants[ast.unparse(item.target)] = _read_literal(item.value)
            except ValueError:
                continue
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return {name: value for name, value in constants.items() if name not in methods}


def _read_literal(node: ast.expr) -> Any:
    """Return the value of a literal, or the names in `frozenset({Enum.MEMBER, …})`. Raises ValueError."""
    members: list[ast.expr] = []
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "frozenset" and len(node.args) == 1:
        members = node.args[0].elts if isinstance(node.args[0], ast.Set) else []
    if ast.unparse(node) == "frozenset()":
        return ()
    if members and all(isinstance(member, ast.Attribute) for member in members):
        return tuple(ast.unparse(member) for member in members)
    return ast.literal_eval(node)


def _iterate_variables(node: ast.ClassDef, tree: ast.Module, path: Path) -> Iterator[tuple[ast.AnnAssign, Path]]:
    """Yield the annotated variables of the bases of a class, then its own, each with its file."""
    for name in _list_base_names(node):
        if _find_import(name, tree) not in _FIELDLESS_MODULES:
            yield from _iterate_variables(*_find_class(name, tree, path))
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            yield item, path


def _read_label_key(node: ast.ClassDef) -> str | None:
    """Return the value of `label_key: ClassVar[str]` in the class body, or None."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "label_key":
            return str(ast.literal_eval(item.value)) if item.value is not None else None
    return None


def _find_protocols(node: ast.ClassDef, tree: ast.Module, path: Path) -> Iterator[str]:
    """Yield the names of the classes of dnntrain.protocols that the class inherits."""
    for name in _list_base_names(node):
        module = _find_import(name, tree)
        if module == PROTOCOLS_MODULE:
            yield name
        elif module not in _FIELDLESS_MODULES:
            yield from _find_protocols(*_find_class(name, tree, path))


def _list_base_names(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _find_class(name: str, tree: ast.Module, path: Path) -> tuple[ast.ClassDef, ast.Module, Path]:
    """Return the class `name` of a module, with the tree and path of its definition."""
    module = _find_import(name, tree)
    if module is None:
        return _get_class(name, tree, path), tree, path
    base_path = _find_module_file(module, path)
    base_tree = _parse(base_path)
    return _get_class(name, base_tree, base_path), base_tree, base_path


def _find_import(name: str, tree: ast.Module) -> str | None:
    """Return the module from which `name` is imported, or None."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return node.module
    return None


def _get_class(name: str, tree: ast.Module, path: Path) -> ast.ClassDef:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise ValueError(f"{path}: class {name} is neither defined here nor imported by `from … import`")


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(_read_source(path), filename=str(path))


@cache
def _read_source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _find_module_file(module: str, importer: Path) -> Path:
    """Return the file of `module`.

    The file is found relative to the importing package, so that nothing is imported.
    """
    path = Path(*module.split("."))
    for parent in (*importer.parents, Path(__file__).resolve().parents[2]):
        for relative in (path.with_suffix(".py"), path / "__init__.py"):
            if (parent / relative).is_file():
                return parent / relative
    raise ValueError(f"{importer}: module {module} was not found")


def _evaluate_expression(node: ast.expr, path: Path) -> Any:
    source = ast.unparse(node)
    try:
        return eval(compile(source, str(path), "eval"), {"__builtins__": {}}, dict(NAMESPACE))
    except Exception as error:
        raise ValueError(
            f"{path}:{node.lineno}: {source!r} must use the names of dnntrain/config/fields.py only: {error}"
        ) from None


def _read_field_comment(item: ast.AnnAssign, path: Path) -> str:
    """Return the comment on the last line of the field that has one."""
    assert item.end_lineno is not None
    assert item.end_col_offset is not None
    lines = _read_lines(path)
    if match := _COMMENT.match(lines[item.end_lineno - 1].encode()[item.end_col_offset :].decode()):
        return match[1]
    if not any("#" in line for line in lines[item.lineno - 1 : item.end_lineno]):
        return ""
    comments = _read_comments(path)
    return next((comments[line] for line in range(item.end_lineno, item.lineno - 1, -1) if line in comments), "")


@cache
def _read_lines(path: Path) -> list[str]:
    return _read_source(path).split("\n")


@cache
def _read_comments(path: Path) -> dict[int, str]:
    """Return the comment behind the code of each line. This is slow: it is for fields of several lines."""
    import tokenize

    return {
        token.start[0]: re.sub(r"^#\s*", "", token.string)
        for token in tokenize.generate_tokens(StringIO(_read_source(path)).readline)
        if token.type == tokenize.COMMENT and token.line.strip() != token.string
    }


def _get_doc_first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]
