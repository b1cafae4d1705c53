"""Turn exceptions into messages and exit codes, in one place."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import AbstractContextManager

from dnntrain.errors import DnntrainError
from dnntrain.utils.explain_error import explain_error
from dnntrain.utils.streams import SafeStream, clean_output

_PIPE_CLOSED = 128 + 13


class ErrorBoundary:
    """Turns the exception that ends a `with` block into an exit code, and cleans the output of the block.

    The block may also set `exit_code`. The user can fix an error that `explain_error` explains:
    stderr gets message and hint, and a traceback with `verbose` or DNNTRAIN_DEBUG=1. Any other
    exception is a bug of dnntrain: traceback, exit code 1.
    """

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        self._cleaning: AbstractContextManager[None] = clean_output()
        self.exit_code = 0

    def __enter__(self) -> ErrorBoundary:
        self._cleaning.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        try:
            return self._convert(error)
        finally:
            self._cleaning.__exit__(None, None, None)

    def _convert(self, error: BaseException | None) -> bool:
        if error is None:
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()
                return True
            except Exception as flush_error:
                error = flush_error
        exit_code = _handle_error(error, self._verbose)
        if exit_code is None:
            return False
        self.exit_code = exit_code
        return True


def _handle_error(error: BaseException, verbose: bool) -> int | None:
    """Report `error` and return its exit code.

    Returns None if it must be raised again, such as SystemExit.
    """
    if isinstance(error, DnntrainError):
        return _report_error(error, verbose)
    if isinstance(error, KeyboardInterrupt):
        print("dnntrain: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        # The reader is gone; without this Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _PIPE_CLOSED
    if not isinstance(error, Exception):
        return None
    if (explained_error := explain_error(error)) is not None:
        return _report_error(explained_error, verbose, error)
    traceback.print_exception(error)
    print("dnntrain: this is a bug; please report it with the lines above and `dnntrain doctor`", file=sys.stderr)
    return 1


def _report_error(error: DnntrainError, verbose: bool, caught_error: BaseException | None = None) -> int:
    """Show `error` unless it has been reported, and return its exit code.

    The traceback shows `caught_error` if it is given.
    """
    if error.is_reported:
        return error.exit_code
    if verbose or os.environ.get("DNNTRAIN_DEBUG") == "1":
        traceback.print_exception(caught_error or error)
    else:
        # The terminal may be gone, as after SIGHUP; the exit code is unchanged.
        SafeStream(sys.stderr).write_line(f"dnntrain: {error}")
    return error.exit_code
