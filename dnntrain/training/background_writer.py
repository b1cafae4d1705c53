"""Run the writing of checkpoints in a thread, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for


class BackgroundWriter:
    """Runs jobs in their order, each in a thread that does not keep the process from ending."""

    def __init__(self) -> None:
        self._jobs: list[Future[None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after those before it."""
        future: Future[None] = Future()
        thread = threading.Thread(target=_run, args=(job, tuple(self._jobs), future), name="checkpoint", daemon=True)
        self._jobs.append(future)
        thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for all jobs, at most `timeout_s` seconds.

        Raises the error of the first one that failed; the others have run.
        """
        jobs, self._jobs = self._jobs, []
        ended = wait_for(jobs, timeout_s).done
        errors = [error for job in jobs if job in ended and (error := job.exception()) is not None]
        if errors:
            raise errors[0]


def _run(job: Callable[[], None], earlier: Sequence[Future[None]], future: Future[None]) -> None:
    wait_for(earlier)
    try:
        job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
