"""`dnntrain config [overrides]`: print the resolved configuration of a run, as YAML or JSON."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.yaml_io import dump_yaml
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the text that a run would write to config.yaml."""
    container = compose(arguments.overrides, arguments.config_dir, quiet=arguments.quiet)
    print(format_json(container, indent=1) if arguments.json else dump_yaml(container).rstrip("\n"))
    return 0
