"""Signals become exit codes anywhere in a block; an import is never broken by one; a finished run ignores them."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dnntrain.errors import Interrupted, Preempted
from dnntrain.utils.signals import (
    blocked_signals,
    delay_interrupt,
    exit_on_signals,
    ignore_signals,
    is_blocking_signals,
    raise_on_signals,
    signal_handlers,
)


@pytest.mark.parametrize(
    ("number", "kind", "code"), [(signal.SIGTERM, Preempted, 75), (signal.SIGINT, Interrupted, 130)]
)
def test_a_signal_ends_the_block_with_its_error(number: signal.Signals, kind: type[Exception], code: int) -> None:
    with pytest.raises(kind, match=f"{number.name}: stopped") as caught, exit_on_signals("stopped", "start it again"):
        signal.raise_signal(number)
    assert caught.value.exit_code == code  # type: ignore[attr-defined]


def test_a_library_that_catches_every_exception_does_not_swallow_a_signal() -> None:
    with pytest.raises(Preempted), exit_on_signals("stopped", ""), suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def import_and_wait(name: str) -> None:
    importlib.import_module(name)
    signal.pause()


def test_an_import_ends_before_the_signal_that_came_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_import.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(0.05)\nIS_WHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Preempted), exit_on_signals("stopped", ""):
        import_and_wait("slow_import")
    assert sys.modules.pop("slow_import").IS_WHOLE


def test_a_script_that_trains_while_it_is_imported_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training_script.py").write_text(
        "import signal\nfrom dnntrain.utils.signals import exit_on_signals\n"
        "with exit_on_signals('stopped', ''):\n    signal.raise_signal(signal.SIGTERM)\n    raise RuntimeError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Preempted):
        import training_script  # type: ignore[import-not-found]  # noqa: F401


def test_signals_have_no_effect_from_the_end_of_a_run_to_the_end_of_its_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with exit_on_signals("command", ""):
        with raise_on_signals():
            ignore_signals()
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Preempted), exit_on_signals("the next command", ""):
        signal.raise_signal(signal.SIGTERM)


def test_ignoring_without_a_handler_changes_nothing() -> None:
    ignore_signals()
    received: list[int] = []
    with signal_handlers(lambda number, frame: received.append(number)):
        signal.raise_signal(signal.SIGUSR1)
    assert received == [signal.SIGUSR1]


def test_ctrl_c_waits_for_the_imports_of_a_python_session() -> None:
    received: list[str] = []

    def import_something() -> None:
        signal.raise_signal(signal.SIGINT)
        received.append("imported")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), delay_interrupt():
            import_something()
        assert received == ["imported"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_stay_pending_until_a_process_can_handle_them() -> None:
    received: list[int] = []
    with signal_handlers(lambda number, frame: received.append(number)):
        with blocked_signals():
            signal.raise_signal(signal.SIGTERM)
            assert is_blocking_signals(os.getpid())
            assert not received
        assert received == [signal.SIGTERM]
    assert not is_blocking_signals(os.getpid())
