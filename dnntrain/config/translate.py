"""Translate words of other trainers into a line that works.

A candidate of `foreign_words.py` is offered only if the configuration accepts it. Every function
here is called for a line with a mistake only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from dnntrain.config.foreign_choices import (
    is_folder,
    list_data_candidates,
    list_named_candidates,
    list_network_candidates,
    simplify_word,
)
from dnntrain.config.foreign_words import GROUP_OF_WORD, SETTING_WORDS, list_device_candidates, list_setting_candidates
from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import Registry

Accepts = Callable[[Sequence[str]], bool]


class Translator:
    """Finds the line that a word of another trainer means; `accepts` checks a candidate."""

    def __init__(self, registry: Registry, accepts: Accepts) -> None:
        self._registry = registry
        self._accepts = accepts

    def translate_setting(self, keys: Sequence[str], value: str | None) -> str | None:
        """Return the settings that `key=value` means, or None. A prefix such as `trainer.` is ignored."""
        word = keys[-1].lower().replace("-", "_")
        group = GROUP_OF_WORD.get(word)
        if word == "device" or group == "device":
            return self._find_line(list_device_candidates(value, is_number=word == "device"))
        if group is not None:
            return self.translate_choice(group, value or "")
        if word not in SETTING_WORDS:
            return None
        return self._find_line(list_setting_candidates(word, value))

    def translate_choice(self, group: str, name: str) -> str | None:
        """Return the settings that the unknown choice `name` of `group` means, or None."""
        return self._find_line(self._list_choice_candidates(group, name))

    def translate_words(self, word: str, value: str | None) -> str | None:
        """Return the settings that two bare words, or a flag with its value, mean: `seed 3`, `--lr 0.1`."""
        typed = [] if value is None else [[f"{word}={value}"]]
        if value is not None and word in GROUPS:
            typed += self._list_choice_candidates(word, value)
        return self._find_line(typed) or self.translate_setting(word.split("."), value)

    def translate_bare_word(self, word: str) -> str | None:
        """Return the setting that a lone word means: the name of a choice, a network, a folder."""
        named = [[f"{group}={word}"] for group in GROUPS if word in self._registry.list_names(group)]
        others = list_network_candidates(word) if re.search(r"\d|\.py$", word) else []
        return self._find_line([*named, *(list_data_candidates(word) if is_folder(word) else []), *others])

    def _list_choice_candidates(self, group: str, name: str) -> Iterator[list[str]]:
        letters = simplify_word(name)
        if not letters:
            return
        for choice in self._registry.list_names(group):
            if simplify_word(choice) == letters:
                yield from _format_choice(group, choice)
        if group == "model":
            yield from list_network_candidates(name)
        elif group == "data":
            yield from list_data_candidates(name)
        yield from list_named_candidates(group, name, GROUPS[group].single)
        for other, info in GROUPS.items():
            if other != group and not info.hidden and letters in map(simplify_word, self._registry.list_names(other)):
                choice = next(item for item in self._registry.list_names(other) if simplify_word(item) == letters)
                if choice not in ("none", "auto", "fast"):
                    yield from _format_choice(other, choice)

    def _find_line(self, candidates: Iterable[Sequence[str]]) -> str | None:
        return next((format_words(words) for words in candidates if self._accepts(words)), None)


def format_words(words: Sequence[str]) -> str:
    """Return settings as they are typed in a shell."""
    return " ".join(f"'{word}'" if any(letter in word for letter in ' ;&|<>()*?$`\\"') else word for word in words)


def _format_choice(group: str, name: str) -> list[list[str]]:
    """Return the ways to choose `name`: for a list, added to it or alone."""
    return [[f"{group}={name}"]] if GROUPS[group].single else [[f"+{group}=[{name}]"], [f"{group}=[{name}]"]]
