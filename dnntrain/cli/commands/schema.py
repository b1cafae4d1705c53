"""`dnntrain schema`: print the JSON Schema of a saved configuration, for editors."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.config.json_schema import make_json_schema
from dnntrain.config.registry import load_registry
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the schema of the installed choices."""
    print(format_json(make_json_schema(load_registry(arguments.config_dir)), indent=1))
    return 0
