"""What a live view leaves on a terminal if its process is killed."""

from __future__ import annotations

import os
import pty
import sys
import termios

import pytest

from dnntrain.display.key_echo import hide_control_keys
from dnntrain.display.view_cleanup import prepare_to_clear


def test_the_view_of_a_killed_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        before = termios.tcgetattr(follower)
        leave = prepare_to_clear(terminal)
        hide_control_keys(terminal)
        terminal.write("\x1b[?25l╰───╯")
        terminal.flush()
        assert termios.tcgetattr(follower) != before
        leave()
        assert termios.tcgetattr(follower) == before
        assert os.read(leader, 1000).decode().endswith("╰───╯\x1b[?25h\r\n")
    os.close(leader)


def test_a_file_gets_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    prepare_to_clear(sys.stderr)()
    assert capsys.readouterr().err == ""
