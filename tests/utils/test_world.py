"""Ranks are read from torchrun's environment; a half-set one is refused."""

from __future__ import annotations

import pytest

from dnntrain.errors import ConfigError
from dnntrain.utils.world import World

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_without_torchrun_there_is_one_process() -> None:
    assert World.from_environ({"MASTER_PORT": "1"}) == World(0, 1, 0, is_launched=False)


def test_torchruns_variables_are_taken() -> None:
    assert World.from_environ(TORCHRUN) == World(1, 2, 1, is_launched=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"MASTER_PORT": None}, "MASTER_PORT"), ({"RANK": "x"}, "must be integers"), ({"RANK": "2"}, "must be in")],
)
def test_an_environment_that_is_not_whole_is_refused(change: dict[str, str | None], words: str) -> None:
    environ = {name: value for name, value in {**TORCHRUN, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=words):
        World.from_environ(environ)
