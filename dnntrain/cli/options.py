"""Describe the options of commands as data, and convert their text to values.

Imports neither hydra nor torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from dnntrain.config.fields import Seconds

#: Joins the words of an option that takes many; no argument can hold it.
WORD_SEPARATOR = "\0"


class Option(NamedTuple):
    """One option: `--name`, or `--name value`.

    type         bool for a switch, Path, or an annotation of `config.fields`; a list is typed as in 1,64
    default      None: the command decides, as `doc` says. A switch that is on by default has `--no-name` too
    placeholder  the name of the value in --help
    short        other spellings
    operand      the operand that it belongs to, if not to all of a command: `tune lr --lowest`
    needs        another option, and the values with which this one has an effect
    example      a value for the message of a mistake, if there is no default
    """

    name: str
    doc: str
    type: Any = bool
    default: Any = None
    placeholder: str = ""
    short: tuple[str, ...] = ()
    operand: str = ""
    needs: tuple[str, tuple[str, ...]] | None = None
    example: str = ""

    @property
    def example_text(self) -> str:
        """A value as it is typed; empty if the option names none."""
        return self.default_text or self.example

    @property
    def key(self) -> str:
        """The name as Python spells it."""
        return self.name.replace("-", "_")

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.type is bool

    @property
    def takes_many(self) -> bool:
        """Whether it takes all words up to the next option: paths may hold commas."""
        return bool(self.type == tuple[Path, ...])

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling, the long one first."""
        negation = (f"--no-{self.name}",) if self.is_switch and self.default else ()
        return (f"--{self.name}", *negation, *self.short)

    @property
    def usage(self) -> str:
        """The spellings with the value, as --help shows them: `-cd, --config-dir DIR`."""
        shown = [flag for flag in self.flags[1:] if self.default and self.is_switch] or [*self.short, f"--{self.name}"]
        return ", ".join(shown) + ("" if self.is_switch else f" {self.placeholder or self.name.upper()}")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, if they are few."""
        bare_type = get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type
        return tuple(map(str, get_args(bare_type))) if get_origin(bare_type) is Literal else ()

    @property
    def type_text(self) -> str:
        """A description of the allowed values."""
        from dnntrain.config.convert import describe_type

        if self.is_switch:
            return ""
        if self.takes_many:
            return "one or more paths"
        return "a path" if self.type is Path else describe_type(self.type)

    @property
    def default_text(self) -> str:
        """The default as it is typed; empty if the command decides, and for a switch."""
        if self.default is None or self.is_switch:
            return ""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def convert(self, text: str) -> Any:
        """Return the value of `text`. Raises ValueError with the allowed values."""
        from dnntrain.config.convert import convert_value

        if self.type is Path or self.takes_many:
            paths = text.split(WORD_SEPARATOR) if self.takes_many else [text]
            if not all(paths):
                raise ValueError("the path is empty")
            return tuple(Path(path).expanduser() for path in paths) if self.takes_many else Path(text).expanduser()
        return convert_value(_parse_text(text, self.type), self.type)

    def format_setting(self, value: str) -> str:
        """Return the option as it is typed, for a value that was written as NAME=VALUE."""
        if not self.is_switch:
            return f"--{self.name} {value}"
        return f"--no-{self.name}" if self.default and value.lower() == "false" else f"--{self.name}"


def _parse_text(text: str, annotation: Any) -> Any:
    """Return `text` as a plain value for `convert_value`; text that is not a number stays text."""
    bare_type = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if annotation == Seconds and text.replace(".", "", 1).isdecimal():
        return f"{'0' * text.startswith('.')}{text}s"
    if get_origin(bare_type) is tuple:
        items = [item.strip() for item in text.strip("[]").split(",") if item.strip()]
        if not items:
            raise ValueError("the list is empty")
        return [_parse_text(item, get_args(bare_type)[0]) for item in items]
    if bare_type in (int, float):
        for number_type in (int, float):
            try:
                return number_type(text)
            except ValueError:
                continue
    return text
