"""Files are opened only if they are regular, never through links, and are written whole or not at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dnntrain.errors import ConfigError, FileKindError
from dnntrain.utils.files import (
    Mode,
    check_file,
    is_plain_folder,
    make_folder,
    open_file,
    read_bytes,
    read_text,
    remove_file,
    remove_path,
    write_bytes,
)
from dnntrain.utils.json_files import read_json, write_json

MODES: tuple[Mode, ...] = ("rb", "r", "ab", "a", "a+", "wb", "w", "xb")


def make_path(kind: str, path: Path) -> Path:
    """Make something that is not a regular file at `path`; links lead to `victim` beside it."""
    victim = path.with_name("victim")
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nothing"))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    return path


@pytest.mark.timeout(10)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "socket"])
def test_only_regular_files_are_opened(kind: str, mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = make_path(kind, tmp_path / "file")
    with pytest.raises(FileKindError, match=f"cannot be opened because it is a .*{kind.split()[-1]}"):
        open_file(path, mode)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_a_device_is_not_opened() -> None:
    with pytest.raises(FileKindError, match="/dev/zero cannot be opened because it is a device"):
        open_file(Path("/dev/zero"))


@pytest.mark.parametrize("mode", ["ab", "a+", "wb"])
def test_a_hard_link_is_read_and_not_written(mode: Mode, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", tmp_path / "file")
    with pytest.raises(FileKindError, match="it is one of 2 hard links"):
        open_file(tmp_path / "file", mode)
    assert read_bytes(tmp_path / "file") == b"precious"


def test_a_file_that_the_user_names_may_be_a_link_to_a_file_but_not_to_a_pipe(tmp_path: Path) -> None:
    assert read_bytes(make_path("link", tmp_path / "file"), follow_links=True) == b"precious"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to pipe").symlink_to(tmp_path / "pipe")
    with pytest.raises(FileKindError, match="it is a pipe"):
        open_file(tmp_path / "to pipe", follow_links=True)


def test_modes_do_what_those_of_open_do(tmp_path: Path) -> None:
    for mode, expected in (("wb", b"x"), ("ab", b"xx"), ("wb", b"x"), ("a+", b"xx")):
        with open_file(tmp_path / "file", mode) as file:  # type: ignore[arg-type]
            file.write(b"x" if "b" in mode else "x")
        assert read_bytes(tmp_path / "file") == expected
    with pytest.raises(FileExistsError):
        open_file(tmp_path / "file", "xb")
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"a\xffb")
    assert read_text(tmp_path / "file", errors="replace") == "a\ufffdb"


def test_the_error_is_one_of_configuration_and_one_of_the_system(tmp_path: Path) -> None:
    error = FileKindError("run/.lock", "a pipe", "remove it")
    assert isinstance(error, ConfigError)
    assert isinstance(error, OSError)
    assert (error.exit_code, error.strerror, error.filename) == (2, "it is a pipe", "run/.lock")
    assert read_json(make_path("pipe", tmp_path / "file")) == {}


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_an_atomic_write_replaces_a_link_and_leaves_its_target(kind: str, tmp_path: Path) -> None:
    path = make_path(kind, tmp_path / "file")
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert not path.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_an_atomic_write_does_not_go_through_a_link_at_its_temporary_place(tmp_path: Path) -> None:
    make_path("link", tmp_path / f".file.tmp-{os.getpid()}")
    write_bytes(tmp_path / "file", b"new")
    assert read_bytes(tmp_path / "file") == b"new"
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "victim"]


def test_a_folder_must_not_be_a_link(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    assert is_plain_folder(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not is_plain_folder(tmp_path / "b")
    with pytest.raises(FileKindError, match="b cannot be opened because it is a symbolic link"):
        make_folder(tmp_path / "b")


def test_a_link_is_removed_and_not_its_target(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    (tmp_path / "a" / "file").write_text("precious")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    remove_path(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").exists()
    remove_path(tmp_path / "a")
    remove_path(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_is_neither_written_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_text("precious")
    for act in (lambda path: write_bytes(path, b"new"), remove_file):
        with pytest.raises(FileKindError, match="it is a folder"):
            act(tmp_path / "file")
    assert (tmp_path / "file" / "inside").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_a_library_opens_is_checked_before(tmp_path: Path) -> None:
    check_file(tmp_path / "missing")
    with pytest.raises(FileKindError, match="it is a symbolic link"):
        check_file(make_path("link", tmp_path / "file"))
