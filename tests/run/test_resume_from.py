"""`resume=PATH` into a folder that holds another run: its checkpoints are gone before its rows are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from short_runs import EIGHT_STEPS, comparable, result

from dnntrain import train
from dnntrain.checkpoint.checkpoint_folder import list_checkpoints, read_pointer
from dnntrain.cli.main import main

RUN = (*EIGHT_STEPS, "model.hidden=[16]")


@pytest.mark.slow
def test_a_run_from_another_runs_checkpoint_has_no_checkpoint_of_the_earlier_run(tmp_path: Path) -> None:
    whole = train(*RUN, f"run_dir={tmp_path}/a", display="quiet")
    train(*RUN, f"run_dir={tmp_path}/b", "seed=3", display="quiet")
    line = (*RUN, f"resume={tmp_path}/a/checkpoints/step-4", f"run_dir={tmp_path}/b")

    def kill(row: Mapping[str, Any]) -> None:
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        train(*line, display="quiet", callbacks=[kill])
    checkpoints = tmp_path / "b" / "checkpoints"
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step-4"]
    assert (read_pointer(checkpoints, "LAST"), read_pointer(checkpoints, "BEST")) == ("step-4", None)
    assert main(["resume", str(tmp_path / "b"), "-q"]) == 0
    assert result(tmp_path / "b")["digest"] == whole["digest"]
    assert comparable(tmp_path / "b") == [row for row in comparable(tmp_path / "a") if row["step"] > 4]
