"""Trials are checked in a process that imports torch while the sweep composes them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from dnntrain.sweep.check_process import CheckProcess

NEEDS_FORK = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


def run_script(text: str) -> list[str]:
    """Return the lines that a program prints, which has not imported torch."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_with_torch_imported_this_process_answers() -> None:
    import torch  # noqa: F401

    with CheckProcess() as checker:
        assert checker.call(os.getpid) == os.getpid()


@NEEDS_FORK
@pytest.mark.slow
def test_another_process_imports_torch_and_this_one_does_not() -> None:
    answers = run_script(
        """
        import os, sys
        from dnntrain.sweep.check_process import CheckProcess
        with CheckProcess() as checker:
            other = checker.call(os.getpid)
            print(other == os.getpid(), checker.call(os.getpid) == other, "torch" in sys.modules)
        print(os.path.exists(f"/proc/{other}"))
        """
    )
    assert answers == ["False", "True", "False", "False"]


@NEEDS_FORK
@pytest.mark.slow
def test_if_the_other_process_is_killed_this_one_answers() -> None:
    answers = run_script(
        """
        import os, signal
        from dnntrain.sweep.check_process import CheckProcess
        with CheckProcess() as checker:
            other = checker.call(os.getpid)
            os.kill(other, signal.SIGKILL)
            print(checker.call(os.getpid) == os.getpid(), checker.call(max, 1, 2))
        """
    )
    assert answers == ["True", "2"]


@NEEDS_FORK
@pytest.mark.slow
def test_the_other_process_ends_with_a_killed_sweep() -> None:
    answers = run_script(
        """
        import os, signal, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", '''
        import os, time
        from dnntrain.sweep.check_process import CheckProcess
        checker = CheckProcess()
        print(checker.call(os.getpid), flush=True)
        time.sleep(60)
        '''.replace("        ", "")], stdout=subprocess.PIPE, text=True)
        other = int(child.stdout.readline())
        assert other != child.pid
        child.kill()
        child.wait()
        deadline = time.monotonic() + 20
        def is_running():
            try:
                return open(f"/proc/{other}/stat").read().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                return False
        while is_running() and time.monotonic() < deadline:
            time.sleep(0.05)
        print(is_running())
        """
    )
    assert answers == ["False"]
