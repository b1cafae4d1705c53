"""Warnings of dnntrain itself: messages without a source line, once over all processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dnntrain.utils.messages import record_messages, warn_user

CHILD = "from dnntrain.utils.messages import warn_user; warn_user('the images overlap')"


def test_a_warning_is_one_line_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    warn_user("the images overlap")
    warn_user("the images overlap")
    warn_user("the disk is nearly full")
    assert capsys.readouterr().err == "warning: the images overlap\nwarning: the disk is nearly full\n"


def test_another_rank_and_a_child_do_not_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    warn_user("the images overlap")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    warn_user("the images overlap")
    assert capsys.readouterr().err == "warning: the images overlap\n"
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert child.stderr == ""


def test_a_run_records_earlier_and_later_warnings() -> None:
    recorded: list[str] = []
    warn_user("before")
    with record_messages(recorded.append):
        warn_user("during")
        warn_user("before")
    warn_user("after")
    assert recorded == ["warning: before", "warning: during"]
