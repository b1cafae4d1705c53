"""Suppress what other libraries print."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def silence_output(*, hides_stderr: bool = True) -> Iterator[None]:
    """Suppress logs, warnings and the output of Python code; stdout is for results.

    A failure raises an exception too. Without `hides_stderr`, messages of dnntrain itself are shown.
    """
    previous_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        stderr = redirect_stderr(StringIO()) if hides_stderr else nullcontext()
        with redirect_stdout(StringIO()), stderr, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous_level)
