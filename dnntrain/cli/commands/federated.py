"""`dnntrain federated export-app DIR [overrides]`: write an app that trains the configuration over real clients."""

from __future__ import annotations

from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.utils.json_files import format_json
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Write the app, and print its files."""
    action, folder = arguments.positional[0], Path(arguments.positional[1]).expanduser()
    if action != "export-app":
        raise ConfigError(f"federated {action}: there is no such action", "use dnntrain federated export-app DIR")
    config = decode_new_run(compose(arguments.overrides, arguments.config_dir), World(), plan_only=True)
    from dnntrain.run.flower_app import write_flower_app

    files = write_flower_app(config, folder)
    if arguments.json:
        print(format_json({"files": [str(file) for file in files]}))
    else:
        print(*files, sep="\n")
    return 0
