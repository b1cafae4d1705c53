"""Run one rank that dnntrain launched: `python -m dnntrain.run.worker RUN_DIR`.

The agent or Slurm starts it. Not for users.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from dnntrain.utils.early_exit import exit_at_once_on_signals, ignore_signals_until_exit


def main() -> int:
    """Train with the resolved configuration of the parent; the parent reports the result."""
    from dnntrain.utils.processes import die_with_agent

    die_with_agent()
    from dnntrain.config.decode import decode_config
    from dnntrain.config.run_config import RunConfig
    from dnntrain.config.saved_config import read_saved_config
    from dnntrain.errors import DnntrainError
    from dnntrain.inference.run_args import merge_words
    from dnntrain.run.runner import run_training
    from dnntrain.utils.error_boundary import ErrorBoundary
    from dnntrain.utils.signals import exit_on_signals
    from dnntrain.utils.world import World

    path = Path(sys.argv[1])
    parent_reports = "DNNTRAIN_RESTART" in os.environ

    def read_config() -> RunConfig:
        return decode_config({**read_saved_config(path), "run_dir": str(path)})

    with ErrorBoundary() as boundary, exit_on_signals("stopped", f"resume with: dnntrain resume {path}"):
        overrides = merge_words(path, ())
        display = os.environ.get("DNNTRAIN_DISPLAY", "auto")
        try:
            run_training(read_config, World.from_environ(), display=display, overrides=overrides)
        except Exception as error:
            if not parent_reports or not (path / "logs" / "failure.json").is_file():
                raise
            return error.exit_code if isinstance(error, DnntrainError) else 1
    return boundary.exit_code


def set_rank_from_slurm(environ: MutableMapping[str, str]) -> None:
    """Set the rank of a task of srun, under the variable names of torchrun."""
    if "SLURM_PROCID" in environ and "RANK" not in environ:
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        environ.update({name: environ[slurm] for name, slurm in names.items()})


if __name__ == "__main__":
    # Not in main: a sweep inside a Slurm job has these variables too, but its trials are not srun
    # tasks.
    set_rank_from_slurm(os.environ)
    exit_at_once_on_signals()
    exit_code = main()
    ignore_signals_until_exit()
    sys.exit(exit_code)
