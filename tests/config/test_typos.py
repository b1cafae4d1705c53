"""One wrong character in a group, choice or key: always refused, nearly always with the right name."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator

import pytest

from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import load_registry
from dnntrain.config.run_config import SECTIONS
from dnntrain.config.validate import validate_overrides
from dnntrain.errors import ConfigError

_LETTERS = string.ascii_lowercase + "_"


def _typo(word: str, source: random.Random) -> str:
    """`word` with one letter left out, put in, replaced, or swapped with its neighbour."""
    place = source.randrange(len(word))
    kind = source.choice(["leave out", "put in", "replace", "swap"])
    letter = source.choice(_LETTERS)
    if kind == "leave out":
        return word[:place] + word[place + 1 :]
    if kind == "put in":
        return word[:place] + letter + word[place:]
    if kind == "replace":
        return word[:place] + letter + word[place + 1 :]
    return word[:place] + word[place + 1 : place + 2] + word[place : place + 1] + word[place + 2 :]


def _targets() -> Iterator[tuple[str, list[str]]]:
    """Every name that can be typed, and the words of a line with `{}` in its place."""
    known = load_registry()
    for group in GROUPS:
        names = known.list_names(group)
        if names:
            value = f"[{names[0]}]" if group in LISTS else names[0]
            yield group, [f"{{}}={value}"]
        for name in names:
            yield name, [f"+{group}=[{{}}]" if group in LISTS else f"{group}={{}}"]
            if group in OVERLAYS:
                continue
            choice = known.get_choice(group, name)
            chosen = f"{group}=[{name}]" if group in LISTS else f"{group}={name}"
            for knob in choice.schema.fields:
                yield f"{choice.key}.{knob}", [chosen, "{}=1"]
    for section in SECTIONS:
        for name in get_section_fields(section):
            yield f"{section}.{name}", ["{}=1"]
    for name in get_root_fields():
        yield name, ["{}=1"]


@pytest.mark.slow
def test_two_hundred_typos_are_all_refused_and_nine_in_ten_get_the_right_name() -> None:
    source = random.Random(0)
    known = load_registry()
    names = {name for group in GROUPS for name in known.list_names(group)}
    valid = {right for right, _ in _targets()} | names
    targets = list(_targets())
    refused = suggested = tried = 0
    wrong: list[str] = []
    while tried < 200:
        right, words = source.choice(targets)
        typed = _typo(right, source)
        if typed in valid or not typed:
            continue
        tried += 1
        line = [word.replace("{}", typed) for word in words]
        try:
            validate_overrides(line)
        except ConfigError as error:
            refused += 1
            if f"'{right}'" in str(error):
                suggested += 1
            else:
                wrong.append(f"{line} for {right}: {error}")
    assert refused == 200
    assert suggested >= 190, "\n".join(wrong)


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("+paralel=ddp", "'parallel'"),
        ("trian.batch_size=4", "'train.batch_size'"),
        ("train.batchsize=4", "'train.batch_size'"),
        ("batch_size=4", "write train.batch_size=4"),
        ("lr=0.1", "write optim.lr=0.1"),
        ("ema=true", "+average=[ema]"),
        ("average.ema.decay=0.9", "+average=[ema]"),
        ("optim.momentum=0.9", "optim=sgd"),
        ("optim=SGD", "write optim=sgd"),
        ("model.name=resnet18", "model=NAME"),
    ],
)
def test_what_users_are_likely_to_write_is_told_the_right_name(word: str, right: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(right)):
        validate_overrides([word])


@pytest.mark.slow
@pytest.mark.parametrize("group", SINGLE)
def test_a_group_is_known_by_its_typo(group: str) -> None:
    with pytest.raises(ConfigError, match=f"'{group}'"):
        validate_overrides([f"{group}x={load_registry().list_names(group)[0]}"])
