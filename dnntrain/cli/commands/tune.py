"""`dnntrain tune lr|batch [overrides]`: finds the learning rate or the batch size for a run, and changes nothing.

Everything is tried in a trainer of its own that is thrown away; no run directory is made. With a layout of several
processes torchrun is started as for training. The line to use next is on stdout, how it was found on stderr.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.cli.options import split_command_options
from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.convert import convert_value
from dnntrain.config.decode import decode_config
from dnntrain.config.fields import Annotated, Positive, PositiveInt, Range
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.units import format_bytes
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.session import Session

_TestSteps = Annotated[int, Range(at_least=10)]

#: What each takes besides the run's own settings: type and default.
_OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "lr": {"lowest": (Positive, 1e-6), "highest": (Positive, 10.0), "steps": (_TestSteps, 100)},
    "batch": {"smallest": (PositiveInt, 8), "largest": (PositiveInt, 4096), "steps": (PositiveInt, 10)},
}


def run(arguments: Arguments) -> int:
    """Prints the line to use next, or with --json everything that was found."""
    if len(arguments.positional) != 1 or arguments.positional[0] not in _OPTIONS:
        given_text = " ".join(arguments.positional)
        raise ConfigError(
            f"tune {given_text}: tune takes one of lr, batch" if given_text else "tune takes one of lr, batch",
            did_you_mean(given_text, list(_OPTIONS)) if given_text else "as in: dnntrain tune lr",
        )
    target = arguments.positional[0]
    options, overrides = _split_options(target, arguments.overrides)
    config = decode_config(compose(overrides, arguments.config_dir))
    result = tune(target, config, options, World.from_environ())
    if not World.from_environ().is_main:
        return 0
    if arguments.json:
        print(json.dumps(result))
        return 0
    if not arguments.quiet:
        print(_format_result(target, result), file=sys.stderr)
    print(result["line"])
    return 0


def tune(target: str, config: RunConfig, options: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What was found; the same on every rank. Starts torchrun where the layout wants several processes."""
    from dnntrain.run.session import open_session

    # Ranks that watch over each other need a folder; it is no run directory, and goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder_name:
        if world.size > 1:
            return _tune_on_ranks(lambda: _with_run_dir(config, folder_name), world, target, options)
        session = open_session(config, world)
        return (
            _launch_ranks(session, Path(folder_name), target, options)
            if session.plan.ranks > 1
            else _tune_session(session, target, options)
        )


def _tune_on_ranks(
    make_config: Callable[[], RunConfig], world: World, target: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The same as one of several ranks, with the main rank's configuration."""
    from dnntrain.run.rank_group import train_on_ranks
    from dnntrain.run.session import open_session

    return train_on_ranks(
        make_config, world, lambda config, ranks: _tune_session(open_session(config, world), target, options)
    )


def _with_run_dir(config: RunConfig, folder_name: str) -> RunConfig:
    return decode_config({**config.resolved, "run_dir": folder_name})


def _tune_session(session: Session, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from dnntrain.tune.batch_size import find_batch_size
    from dnntrain.tune.lr_range import run_range_test

    search: Callable[..., dict[str, Any]] = {"lr": run_range_test, "batch": find_batch_size}[target]
    return search(session, **options)


def _launch_ranks(session: Session, folder: Path, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same in as many processes as the layout wants; they speak to this one through `folder`."""
    from dnntrain.run.torchrun import run_module_on_ranks
    from dnntrain.utils.files import read_json

    request = {"what": target, "words": dict(options), "config": {**session.config.resolved, "run_dir": str(folder)}}
    (folder / "asked.json").write_text(json.dumps(request), encoding="utf-8")
    run_module_on_ranks(session, folder, "dnntrain.cli.commands.tune")
    return read_json(folder / "found.json")


def _split_options(target: str, overrides: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the words of tune itself, the settings of the run)."""
    option_types = _OPTIONS[target]
    values = {name: default for name, (_, default) in option_types.items()}
    split_command_options(overrides, tuple(option_types))  # refuses a name that is nearly one of these
    for word in overrides:
        name, _, text = word.partition("=")
        if name in option_types:
            try:
                values[name] = convert_value(_parse_number(text), option_types[name][0])
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None
    low, high = [value for name, value in values.items() if name != "steps"]
    if low >= high:
        raise ConfigError(f"nothing lies between {low:g} and {high:g}", "give the lower bound first")
    return values, tuple(word for word in overrides if word.partition("=")[0] not in option_types)


def _parse_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _format_result(target: str, result: Mapping[str, Any]) -> str:
    """How it was found, for a person."""
    if target == "lr":
        from dnntrain.planning.plan import draw_bars

        # Cut at the loss of the first steps: beside an explosion the fall before it could not be seen.
        highest, lowest = result["smoothed"][0], min(result["smoothed"])
        heights = [min(value, highest) - lowest for value in result["smoothed"]]
        return "\n".join(
            [
                f"loss from {result['rates'][0]:.2g} to {result['rates'][-1]:.2g}: {draw_bars(heights)}",
                f"steepest fall at {result['suggestion']:.2g}; a tenth of the rate of the lowest loss: "
                f"{result['tenth_of_minimum']:.2g} ({result['ended']})",
            ]
        )
    lines = [f"{'micro-batch':>11} {'examples/s':>11} {'memory':>10}"]
    lines += [
        f"{row['microbatch']:>11} {row['examples_per_s']:>11} {format_bytes(row['memory_bytes']):>10}"
        for row in result["rows"]
    ]
    lines.append(f"largest that fits: {result['largest']} ({result['ended']})")
    if result["same_batch"]:
        lines.append(f"with the batch size as it is: {result['same_batch']}")
    return "\n".join(lines)


def main() -> int:
    """One rank of what `_launched` has started: answers into the folder that is its argument; who started it says how it ended."""
    from dnntrain.utils.error_boundary import run_with_error_boundary

    folder = Path(sys.argv[1])

    def run_rank() -> int:
        request = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        world = World.from_environ()
        try:
            result = _tune_on_ranks(lambda: decode_config(request["config"]), world, request["what"], request["words"])
        except DnntrainError as error:
            return error.exit_code
        if world.is_main:
            (folder / "found.json").write_text(json.dumps(result), encoding="utf-8")
        return 0

    return run_with_error_boundary(run_rank)


if __name__ == "__main__":
    sys.exit(main())
