"""Temporary files of killed writes are removed when the folder is opened again."""

from __future__ import annotations

from pathlib import Path

from dnntrain.run.directory import RunDirectory, lock_folder

LEFTOVERS = (".result.json.tmp-12", ".model.safetensors.tmp-3", "checkpoints/.LAST.tmp-123", "checkpoints/.BEST.tmp-9")
OTHERS = ("notes.txt", ".hidden", ".x.tmp-name", "checkpoints/LAST")


def test_opening_a_run_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (*LEFTOVERS, *OTHERS):
        (tmp_path / name).write_text("x")
    (tmp_path / ".link.tmp-5").symlink_to(tmp_path / "notes.txt")
    RunDirectory.open(str(tmp_path), "run").close()
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert names == {*OTHERS, ".link.tmp-5", ".lock", "log.txt"}


def test_opening_a_sweep_removes_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".results.csv.tmp-7").write_text("x")
    with lock_folder(tmp_path):
        assert not (tmp_path / ".results.csv.tmp-7").exists()
