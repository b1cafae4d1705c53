"""`dnntrain resume RUN [overrides]`: goes on with a run; shows what changes, refuses what cannot."""

from __future__ import annotations

import sys

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config, load_config
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_trusted, get_run_path, merge_saved_overrides
from dnntrain.run.resume_checks import find_changes, find_refusals
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Composes the run's own overrides with the new ones, compares, and trains on."""
    from dnntrain.cli.commands.train import print_last_line
    from dnntrain.run.runner import train

    path = get_run_path(arguments.positional)
    saved_config = load_config(path / "config.yaml")
    merged_arguments = merge_saved_overrides(path, arguments)
    check_trusted(saved_config, path, arguments.overrides)
    config = decode_config(
        {**compose(merged_arguments.overrides, merged_arguments.config_dir), "run_dir": str(path), "resume": "auto"}
    )
    differences = [
        change for change in find_changes(saved_config, config.resolved) if change.key not in ("run_dir", "resume")
    ]
    if reasons := find_refusals(saved_config, config.resolved):
        raise ConfigError.from_mistakes(reasons)
    for change in differences:
        print(f"changed: {change}", file=sys.stderr)
    result = train(config, World.from_environ(), display=arguments.display, overrides=merged_arguments.replay_overrides)
    print_last_line(result, arguments)
    return 0
