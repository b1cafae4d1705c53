"""Build one choice from plain options; import its class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from dnntrain.config.convert import convert_value
from dnntrain.config.registry import Choice, Registry, load_registry
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.user_code import register_user_code


def decode_choice(group: str, name: str, options: Mapping[str, Any], choice_registry: Registry | None = None) -> Any:
    """Build one choice of `group` from plain `options`.

    `options` are as config.json of a model holds them; missing options keep their defaults. Raises
    ConfigError if the choice does not exist, or if an option is unknown or invalid.
    """
    choice = (choice_registry or load_registry()).get_choice(group, name)
    fields, values, mistakes = choice.schema.fields, {}, []
    for option, value in options.items():
        if option == "name" and option not in fields:
            continue
        try:
            if option not in fields:
                raise ValueError(f"there is no such key; {did_you_mean(str(option), list(fields))}")
            values[option] = convert_value(value, fields[option].type)
        except ValueError as error:
            mistakes.append(f"{group}.{option}: {error}")
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    return import_choice_class(choice)(**values)


def find_option_mistakes(choice: Choice, values: Mapping[str, Any]) -> list[str]:
    """Return the reason why a choice rejects options that are each valid by themselves.

    `values` are its plain options. This imports its module.
    """
    fields = choice.schema.fields
    options = {name: convert_value(value, fields[name].type) for name, value in values.items() if name in fields}
    try:
        import_choice_class(choice)(**options)
    except ValueError as error:
        return [str(error)]
    return []


def import_choice_class(choice: Choice) -> type:
    """Import the module of `choice` and return its class.

    The package of a plug-in is remembered as the user's code. Raises ImportError.
    """
    assert choice.module is not None
    assert choice.module_path is not None
    package, _, _ = choice.module.partition(".")
    if package != "dnntrain":
        register_user_code(choice.module_path.parents[1], f"the plug-in {package}")
        register_user_code(choice.module_path, f"{choice.group}={choice.name}")
    module = importlib.import_module(choice.module)
    choice_class = vars(module).get(choice.schema.class_name)
    if not isinstance(choice_class, type):
        raise ImportError(f"{choice.module_path} does not define the class {choice.schema.class_name}")
    return choice_class
