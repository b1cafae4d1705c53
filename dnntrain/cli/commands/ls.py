"""`dnntrain ls [GROUP [CHOICE]]`: list groups, choices and their options."""

from __future__ import annotations

from typing import Any

from dnntrain.cli.choice_listing import describe_choice, describe_group, list_groups
from dnntrain.cli.parser import Arguments
from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.utils.json_files import format_json
from dnntrain.utils.suggest import did_you_mean


def run(arguments: Arguments) -> int:
    """Print a table, or JSON."""
    words = arguments.positional
    if words and words[0] not in GROUPS:
        raise ConfigError(f"there is no group {words[0]!r}; {did_you_mean(words[0], list(GROUPS))}")
    choice_registry = load_registry(arguments.config_dir)
    description: Any
    if not words:
        description, lines = list_groups(choice_registry)
    elif len(words) == 1:
        description, lines = describe_group(choice_registry, words[0])
    else:
        description, lines = describe_choice(choice_registry.get_choice(words[0], words[1]))
    print(format_json(description, indent=1) if arguments.json else "\n".join(lines))
    return 0
