"""The Python interface: the commands as functions.

Overrides are written as on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.config.compose import compose
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.planning.plan import Plan
from dnntrain.protocols import ModelSpec
from dnntrain.utils.downloads import forbid_downloads
from dnntrain.utils.signals import exit_on_signals
from dnntrain.utils.words import add_config_dir
from dnntrain.utils.world import World


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in eval mode, with a description of its inputs and outputs.

    `spec.inputs` has shape, mean and std, `spec.output` names and shape.
    """

    model: nn.Module
    spec: ModelSpec


def train(*overrides: str, config_dir: str | Path | None = None, display: str = "auto") -> dict[str, Any]:
    """Train and return the run's result: `train("model=resnet20", "data=cifar10")`.

    `display` is auto, quiet or json. Raises ConfigError, DataError, DivergedError or
    CheckpointError, which correspond to the exit codes of the command.
    """
    with exit_on_signals("stopped", "the same call starts it again"):
        from dnntrain.run.runner import run_training

        world = World.from_environ()
        overrides = tuple(add_rank_layout(overrides, config_dir, world))
        config = decode_new_run(compose(overrides, config_dir), world)
        words = add_config_dir(config_dir, overrides)
        return run_training(lambda: config, world, display=display, overrides=words).as_json()


def plan(*overrides: str, config_dir: str | Path | None = None) -> Plan:
    """Return the plan of `train` with these overrides."""
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    world = World.from_environ()
    config = decode_new_run(compose(list(overrides), config_dir), world, plan_only=True)
    with forbid_downloads("dnntrain plan downloads nothing"):
        return open_session(drop_init_weights_if_resuming(config), world, plan_only=True).plan


def load(run: str | Path, *, trust: bool = False) -> TrainedModel:
    """The trained model of a run directory or an export. Raises CheckpointError where its files are damaged.

    `trust` runs the code that it names: a .pt2 file, which is a program, or the file of a custom model.
    """
    from dnntrain.inference.load import load_model
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(Path(run), (), trust)
    loaded_model = load_model(Path(run), trust=trust)
    return TrainedModel(loaded_model.model, loaded_model.spec)


def evaluate(run: str | Path, *overrides: str, split: str | None = None, trust: bool = False) -> dict[str, float | int]:
    """Return the loss, the task's metrics and the number of examples of a run's model.

    They are those of `split` (train, val, test, all) of its data, or of another `data=`; by default of
    the test split, or of all examples if other data have none. `trust` is as for `load`.
    """
    from dnntrain.inference.evaluate_run import check_split, evaluate_run
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(Path(run), overrides, trust)
    return evaluate_run(Path(run), list(overrides), split and check_split(split), trust)[1]


def predict(run: str | Path, paths: Sequence[str | Path], *, top: int = 1, trust: bool = False) -> list[dict[str, Any]]:
    """Return the `top` most probable classes of each image file, as `dnntrain predict` does."""
    from dnntrain.inference.predict import predict_files
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(Path(run), (), trust)
    return list(predict_files(Path(run), [Path(path) for path in paths], top, trust=trust))
