"""`dnntrain train`: train a run, or resume it, and write everything to its run directory."""

from __future__ import annotations

from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.config.run_config import RunConfig
from dnntrain.utils.words import add_config_dir
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Train the run that the overrides describe."""
    world = World.from_environ()
    # A lone process checks the line first of all. Of several ranks, the main one composes for all.
    composed = compose(arguments.overrides, arguments.config_dir) if not world.is_launched else None

    # A mistake in the line ends the command before these imports.
    from dnntrain.planning.checks.early import decode_new_run
    from dnntrain.run.runner import run_training

    overrides = add_rank_layout(arguments.overrides, arguments.config_dir, world)

    def make_config() -> RunConfig:
        if composed is not None:
            return decode_new_run(composed, world)
        # The plan finds all mistakes, and its errors are in result.json: torchrun has exit codes of its own.
        return decode_config(compose(overrides, arguments.config_dir))

    words = add_config_dir(arguments.config_dir, overrides)
    result = run_training(make_config, world, display=arguments.display, overrides=words, tuned=arguments.tuned)
    print_last_line(result.run_dir, arguments)
    return 0


def print_last_line(run_dir: str, arguments: Arguments) -> None:
    """Print the path of the report, last on stdout."""
    if arguments.json or not World.from_environ().is_main:
        return
    path = Path(run_dir)
    report = path / "report.html"
    print(report if report.is_file() else path)
