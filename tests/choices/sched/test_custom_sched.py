"""A schedule from the user's file: a function of the progress between warm-up and cool-down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from own_code import write_mine

from dnntrain.choices.sched.custom import CustomSchedule
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError, PluginError

NO_CONTEXT: Any = None


def test_the_function_gets_the_progress(tmp_path: Path) -> None:
    schedule = CustomSchedule(file=str(write_mine(tmp_path)), name="sawtooth", args=Arguments({"teeth": 2}))
    curve = schedule.make_curve(NO_CONTEXT, 100.0)
    assert [curve(done) for done in (0, 25, 50, 75)] == pytest.approx([1.0, 0.55, 1.0, 0.55])


def test_a_wrong_factor_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def wrong(progress):\n    return progress - 1\n")
    with pytest.raises(PluginError, match="must return a finite number of at least 0, not -1"):
        CustomSchedule(file=str(file)).make_curve(NO_CONTEXT, 10.0)(0)


def test_a_missing_file_or_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sched=custom needs sched\.file"):
        CustomSchedule().make_curve(NO_CONTEXT, 10.0)
    with pytest.raises(ConfigError, match=r"sched.args.tooth: sawtooth does not have this argument"):
        CustomSchedule(file=str(write_mine(tmp_path)), name="sawtooth", args=Arguments({"tooth": 2})).make_curve(
            NO_CONTEXT, 1.0
        )
