"""`dnntrain resume RUN [overrides]`: resume a run, and show what changes."""

from __future__ import annotations

import sys

from dnntrain.cli.commands.train import print_last_line
from dnntrain.cli.parser import Arguments
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.utils.words import add_config_dir
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Compose the run's own overrides with the new ones, print the changes, and resume training."""
    from dnntrain.inference.run_args import get_run_path, merge_saved_overrides
    from dnntrain.run.resume_checks import compose_resumed
    from dnntrain.run.runner import run_training

    path = get_run_path(arguments.positional[0])
    world = World.from_environ()
    overrides, config_dir = merge_saved_overrides(path, arguments.overrides, arguments.config_dir)
    overrides = tuple(add_rank_layout(overrides, config_dir, world))
    config, changes = compose_resumed(path, overrides, config_dir, trusted=arguments.overrides)
    for change in changes:
        print(f"changed: {change}", file=sys.stderr)
    words = add_config_dir(config_dir, overrides)
    result = run_training(lambda: config, world, display=arguments.display, overrides=words)
    print_last_line(result.run_dir, arguments)
    return 0
