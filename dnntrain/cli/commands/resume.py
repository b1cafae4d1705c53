"""`dnntrain resume RUN [overrides]`: resume a run, and show what changes."""

from __future__ import annotations

import sys

from dnntrain.cli.commands.train import print_last_line
from dnntrain.cli.parser import Arguments
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.config.saved_config import read_saved_config
from dnntrain.utils.downloads import forbid_downloads
from dnntrain.utils.words import add_config_dir
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Compose the overrides over the saved configuration, print the changes, and resume training."""
    from dnntrain.inference.run_args import find_download_refusal, get_run_path, merge_words
    from dnntrain.run.resume_checks import compose_resumed
    from dnntrain.run.runner import run_training

    path = get_run_path(arguments.positional[0])
    world = World.from_environ()
    overrides = add_rank_layout(arguments.overrides, arguments.config_dir, world, saved=read_saved_config(path))
    config, changes = compose_resumed(path, overrides, arguments.config_dir, trust=arguments.options["trust"])
    for change in changes:
        print(f"changed: {change}", file=sys.stderr)
    words = merge_words(path, add_config_dir(arguments.config_dir, overrides))
    with forbid_downloads(find_download_refusal(arguments.overrides)):
        result = run_training(lambda: config, world, display=arguments.display, overrides=words)
    print_last_line(result.run_dir, arguments)
    return 0
