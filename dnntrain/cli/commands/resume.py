"""`dnntrain resume RUN [overrides]`: goes on with a run; shows what changes, refuses what cannot."""

from __future__ import annotations

import sys

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode, load_config
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_trusted, replayed, run_path
from dnntrain.run.resume_checks import changes, refused
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Composes the run's own overrides with the new ones, compares, and trains on."""
    from dnntrain.cli.commands.train import last_line
    from dnntrain.run.runner import train

    path = run_path(arguments.positional)
    saved = load_config(path / "config.yaml")
    again = replayed(path, arguments)
    check_trusted(saved, path, arguments.overrides)
    config = decode({**compose(again.overrides, again.config_dir), "run_dir": str(path), "resume": "auto"})
    found = [change for change in changes(saved, config.resolved) if change.key not in ("run_dir", "resume")]
    if reasons := refused(saved, config.resolved):
        raise ConfigError.of(reasons)
    for change in found:
        print(f"changed: {change}", file=sys.stderr)
    result = train(config, World.from_environ(), display=arguments.display, overrides=again.replay)
    last_line(result, arguments)
    return 0
