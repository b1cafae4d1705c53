"""The Python interface: the commands as functions.

Overrides are written as on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dnntrain.config.compose import compose
from dnntrain.config.python_settings import format_settings
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.planning.plan import Plan
from dnntrain.protocols import ModelSpec
from dnntrain.utils.downloads import forbid_downloads
from dnntrain.utils.given_objects import give_objects, select_objects, take_objects
from dnntrain.utils.signals import exit_on_signals
from dnntrain.utils.words import add_config_dir
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.inference.load import LoadedModel
    from dnntrain.inference.pictures import Picture


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in eval mode, with a description of its inputs and outputs.

    `spec.inputs` has shape, mean and std, `spec.output` names and shape. `path` is the run or the
    export that it was loaded from.
    """

    model: nn.Module
    spec: ModelSpec
    path: Path
    _loaded: LoadedModel

    def preprocess(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Return the inputs of the model for paths or Pillow images, float32 [n, channels, height, width]."""
        from dnntrain.inference.pictures import preprocess_pictures

        return preprocess_pictures(self._loaded, _list_pictures(pictures))

    def predict(self, pictures: Picture | Sequence[Picture], *, top: int = 1) -> Any:
        """Return the prediction for a path or a Pillow image, or a list of predictions for a list.

        A prediction is a row of `dnntrain predict`, with at most `top` candidates. Raises DataError
        if a picture cannot be read.
        """
        from dnntrain.inference.pictures import predict_pictures

        rows = predict_pictures(self._loaded, _list_pictures(pictures), top)
        return rows if isinstance(pictures, list | tuple) else rows[0]

    def metrics(self) -> dict[str, list[Any]]:
        """Return the rows of the run's metrics.jsonl as columns of equal length; None if a row lacks a value.

        `pandas.DataFrame(model.metrics())` makes a table of it. An export has no rows.
        """
        from dnntrain.training.metrics_writer import read_rows

        rows = read_rows(self.path / "metrics.jsonl")
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


def train(
    *overrides: str,
    config_dir: str | Path | None = None,
    display: str = "auto",
    callbacks: Sequence[Callable[[Mapping[str, Any]], None]] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Train and return the run's result: `train("model=resnet20", data="cifar10", train={"batch_size": 64})`.

    `settings` are overrides as keywords; a mapping sets keys of a group or section, None is null.
    `model` may be a torch.nn.Module, whose weights the run begins with, or a class in a file. `data`
    may be (train, test) or (train, val, test), each a pair of arrays or an object with items
    (input, target), or a function in a file. Objects need a run in this process; a call that resumes
    the run gives them again.
    Each of `callbacks` is called with every row of metrics.jsonl as it is written; it needs a run in
    this process. `display` is auto, quiet or json. Raises ConfigError, DataError, DivergedError or
    CheckpointError, which correspond to the exit codes of the command.
    """
    with exit_on_signals("stopped", "the same call starts it again"):
        from dnntrain.run.runner import run_training
        from dnntrain.run.tuned_settings import expand_tuned

        world = World.from_environ()
        settings, objects = take_objects(settings)
        overrides, tuned = expand_tuned((*overrides, *format_settings(settings)))
        overrides = tuple(add_rank_layout(overrides, config_dir, world))
        with give_objects(objects):
            config = decode_new_run(compose(overrides, config_dir), world)
            words = add_config_dir(config_dir, overrides)
            result = run_training(
                lambda: config, world, display=display, overrides=words, listeners=callbacks, tuned=tuned
            )
            return result.as_json()


def plan(*overrides: str, config_dir: str | Path | None = None, **settings: Any) -> Plan:
    """Return the plan of `train` with these overrides and settings."""
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    world = World.from_environ()
    settings, objects = take_objects(settings)
    with give_objects(objects), forbid_downloads("dnntrain plan downloads nothing"):
        config = decode_new_run(compose([*overrides, *format_settings(settings)], config_dir), world, plan_only=True)
        return open_session(drop_init_weights_if_resuming(config), world, plan_only=True).plan


def load(run: str | Path, *, trust: bool = False, model: nn.Module | None = None, data: Any = None) -> TrainedModel:
    """Return the trained model of a run directory or an export.

    `trust` runs the code that it names: a .pt2 file, which is a program, or the file of a custom model.
    A run of a `model` or of `data` given from Python needs the object again. Raises CheckpointError if
    its files are damaged.
    """
    from dnntrain.inference.load import load_model
    from dnntrain.run.unfinished import write_unfinished_model

    with give_objects(select_objects(model, data)):
        write_unfinished_model(Path(run), (), trust)
        loaded_model = load_model(Path(run), trust=trust)
    return TrainedModel(loaded_model.model, loaded_model.spec, Path(run), loaded_model)


def evaluate(
    run: str | Path,
    *overrides: str,
    split: str | None = None,
    trust: bool = False,
    model: nn.Module | None = None,
    data: Any = None,
) -> dict[str, float | int]:
    """Return the loss, the task's metrics and the number of examples of a run's model.

    They are those of `split` (train, val, test, all) of its data, or of another `data=`; by default of
    the test split, or of all examples if other data have none. `trust`, `model` and `data` are as for
    `load`.
    """
    from dnntrain.inference.evaluate_run import check_split, evaluate_run
    from dnntrain.run.unfinished import write_unfinished_model

    with give_objects(select_objects(model, data)):
        write_unfinished_model(Path(run), overrides, trust)
        return evaluate_run(Path(run), list(overrides), split and check_split(split), trust)[1]


def predict(
    run: str | Path,
    paths: str | Path | Sequence[str | Path],
    *,
    top: int = 1,
    trust: bool = False,
    model: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Return the `top` most probable classes of each image file, as `dnntrain predict` does.

    `paths` is a file, a folder, or a list of them. `load(run).predict` keeps the model for more calls,
    and takes Pillow images too. `trust` and `model` are as for `load`.
    """
    from dnntrain.inference.predict import predict_files
    from dnntrain.run.unfinished import write_unfinished_model

    files = [paths] if isinstance(paths, str | PathLike) else paths
    with give_objects(select_objects(model, None)):
        write_unfinished_model(Path(run), (), trust)
        return list(predict_files(Path(run), [Path(path) for path in files], top, trust=trust))


def _list_pictures(pictures: Any) -> Sequence[Picture]:
    """Return a list or tuple of pictures as it is, and one picture as a list."""
    return pictures if isinstance(pictures, list | tuple) else [pictures]
