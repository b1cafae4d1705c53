"""Garbage collection pauses while torch is imported, and only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: The code of a package named torch: it says whether garbage is collected while it is imported.
TORCH = "import gc\nprint(gc.isenabled())\n"


def run(folder: Path, script: str, torch: str = TORCH) -> list[str]:
    """Run a script for which a package in `folder` is torch; return what it prints."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(torch)
    root = Path(__file__).parents[2]
    lines = f"import gc, sys\nsys.path[:0] = [{str(folder)!r}, {str(root)!r}]\n{script}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split()


def test_collection_pauses_while_torch_is_imported(tmp_path: Path) -> None:
    script = "import dnntrain\nprint(gc.isenabled())\nimport torch\nprint(gc.isenabled(), gc.get_freeze_count())"
    assert run(tmp_path, script) == ["True", "False", "True", "0"]


def test_a_search_for_torch_does_not_end_the_pause(tmp_path: Path) -> None:
    script = "import dnntrain, importlib.util\nassert importlib.util.find_spec('torch')\nimport torch"
    assert run(tmp_path, script) == ["False"]


def test_dnntrain_may_be_imported_twice_before_torch(tmp_path: Path) -> None:
    script = "import dnntrain, importlib\nimportlib.reload(dnntrain)\nimport torch\nprint(gc.isenabled())"
    assert run(tmp_path, script) == ["False", "True"]


@pytest.mark.parametrize(
    ("words", "is_command"),
    [
        (["python", "-m", "dnntrain", "plan"], True),
        (["python", "-u", "-m", "dnntrain.run.worker", "runs/a"], True),
        (["python", "/bin/dnntrain", "plan"], True),
        (["python", "-u", "/bin/dnntrain", "-m", "seed=1,2"], True),
        (["python", "train.py", "dnntrain"], False),
        (["python", "train.py", "-m", "dnntrain"], False),
        (["python", "-m", "pytest", "dnntrain"], False),
    ],
)
def test_objects_of_torch_are_frozen_in_processes_of_commands(
    words: list[str], is_command: bool, tmp_path: Path
) -> None:
    script = f"sys.orig_argv = {words}\nimport dnntrain, torch\nprint(gc.get_freeze_count() > 1000)"
    assert run(tmp_path, script) == ["False", str(is_command)]


def test_a_failed_import_leaves_collection_as_it_was(tmp_path: Path) -> None:
    script = "import dnntrain\ntry:\n    import torch\nexcept ImportError:\n    print(gc.isenabled())"
    assert run(tmp_path, script, TORCH + "raise ImportError\n") == ["False", "True"]


def test_collection_that_is_off_stays_off(tmp_path: Path) -> None:
    script = "import dnntrain\ngc.disable()\nimport torch\nprint(gc.isenabled())"
    assert run(tmp_path, script) == ["False", "False"]
