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

from dnntrain.cli.options import own_words
from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.convert import convert
from dnntrain.config.decode import decode
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
_WORDS: dict[str, dict[str, tuple[Any, Any]]] = {
    "lr": {"lowest": (Positive, 1e-6), "highest": (Positive, 10.0), "steps": (_TestSteps, 100)},
    "batch": {"smallest": (PositiveInt, 8), "largest": (PositiveInt, 4096), "steps": (PositiveInt, 10)},
}


def run(arguments: Arguments) -> int:
    """Prints the line to use next, or with --json everything that was found."""
    if len(arguments.positional) != 1 or arguments.positional[0] not in _WORDS:
        given = " ".join(arguments.positional)
        raise ConfigError(
            f"tune {given}: tune takes one of lr, batch" if given else "tune takes one of lr, batch",
            did_you_mean(given, list(_WORDS)) if given else "as in: dnntrain tune lr",
        )
    what = arguments.positional[0]
    words, overrides = _own_words(what, arguments.overrides)
    config = decode(compose(overrides, arguments.config_dir))
    found = tune(what, config, words, World.from_environ())
    if not World.from_environ().is_main:
        return 0
    if arguments.json:
        print(json.dumps(found))
        return 0
    if not arguments.quiet:
        print(_told(what, found), file=sys.stderr)
    print(found["line"])
    return 0


def tune(what: str, config: RunConfig, words: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What was found; the same on every rank. Starts torchrun where the layout wants several processes."""
    from dnntrain.run.session import open_session

    # Ranks that watch over each other need a folder; it is no run directory, and goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        if world.size > 1:
            return _together(lambda: _in_folder(config, name), world, what, words)
        session = open_session(config, world)
        return _launched(session, Path(name), what, words) if session.plan.ranks > 1 else _tuned(session, what, words)


def _together(configured: Callable[[], RunConfig], world: World, what: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The same as one of several ranks, with the main rank's configuration."""
    from dnntrain.run.rank_group import train_together
    from dnntrain.run.session import open_session

    return train_together(configured, world, lambda config, ranks: _tuned(open_session(config, world), what, words))


def _in_folder(config: RunConfig, name: str) -> RunConfig:
    return decode({**config.resolved, "run_dir": name})


def _tuned(session: Session, what: str, words: Mapping[str, Any]) -> dict[str, Any]:
    from dnntrain.tune.batch_size import batch_test
    from dnntrain.tune.lr_range import range_test

    find: Callable[..., dict[str, Any]] = {"lr": range_test, "batch": batch_test}[what]
    return find(session, **words)


def _launched(session: Session, folder: Path, what: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The same in as many processes as the layout wants; they speak to this one through `folder`."""
    from dnntrain.run.torchrun import launched
    from dnntrain.utils.files import read_json

    asked = {"what": what, "words": dict(words), "config": {**session.config.resolved, "run_dir": str(folder)}}
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    launched(session, folder, "dnntrain.cli.commands.tune")
    return read_json(folder / "found.json")


def _own_words(what: str, overrides: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the words of tune itself, the settings of the run)."""
    known = _WORDS[what]
    values = {name: default for name, (_, default) in known.items()}
    own_words(overrides, tuple(known))  # refuses a name that is nearly one of these
    for word in overrides:
        name, _, text = word.partition("=")
        if name in known:
            try:
                values[name] = convert(_number(text), known[name][0])
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None
    low, high = [value for name, value in values.items() if name != "steps"]
    if low >= high:
        raise ConfigError(f"nothing lies between {low:g} and {high:g}", "give the lower bound first")
    return values, tuple(word for word in overrides if word.partition("=")[0] not in known)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _told(what: str, found: Mapping[str, Any]) -> str:
    """How it was found, for a person."""
    if what == "lr":
        from dnntrain.planning.plan import bars

        # Cut at the loss of the first steps: beside an explosion the fall before it could not be seen.
        highest, lowest = found["smoothed"][0], min(found["smoothed"])
        heights = [min(value, highest) - lowest for value in found["smoothed"]]
        return "\n".join(
            [
                f"loss from {found['rates'][0]:.2g} to {found['rates'][-1]:.2g}: {bars(heights)}",
                f"steepest fall at {found['suggestion']:.2g}; a tenth of the rate of the lowest loss: "
                f"{found['tenth_of_minimum']:.2g} ({found['ended']})",
            ]
        )
    lines = [f"{'micro-batch':>11} {'examples/s':>11} {'memory':>10}"]
    lines += [
        f"{row['microbatch']:>11} {row['examples_per_s']:>11} {format_bytes(row['memory_bytes']):>10}"
        for row in found["rows"]
    ]
    lines.append(f"largest that fits: {found['largest']} ({found['ended']})")
    if found["same_batch"]:
        lines.append(f"with the batch size as it is: {found['same_batch']}")
    return "\n".join(lines)


def main() -> int:
    """One rank of what `_launched` has started: answers into the folder that is its argument; who started it says how it ended."""
    from dnntrain.utils.error_boundary import guarded

    folder = Path(sys.argv[1])

    def body() -> int:
        asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        world = World.from_environ()
        try:
            found = _together(lambda: decode(asked["config"]), world, asked["what"], asked["words"])
        except DnntrainError as error:
            return error.exit_code
        if world.is_main:
            (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
