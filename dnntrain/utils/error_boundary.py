"""The one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from dnntrain.errors import DnntrainError, convert_disk_full_error
from dnntrain.utils.streams import SafeStream

_PIPE_CLOSED = 128 + 13


def run_with_error_boundary(body: Callable[[], int], verbose: bool = False) -> int:
    """What `body` returns, or the exit code of the exception that ended it.

    A DnntrainError is the user's to mend: message and hint on stderr; traceback with `verbose` or DNNTRAIN_DEBUG=1. So is a full
    disk, wherever it is met. Any other exception is a bug of dnntrain: traceback, exit code 1.
    """
    try:
        code = body()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except DnntrainError as error:
        return _report_error(error, verbose)
    except KeyboardInterrupt:
        print("dnntrain: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader is gone; without this Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _PIPE_CLOSED
    except Exception as error:
        if (disk_error := convert_disk_full_error(error)) is not None:
            return _report_error(disk_error, verbose)
        traceback.print_exc()
        print("dnntrain: this is a bug; please report it with the lines above and `dnntrain doctor`", file=sys.stderr)
        return 1


def _report_error(error: DnntrainError, verbose: bool) -> int:
    """The exit code of `error`, which is shown unless it has been."""
    if error.is_reported:
        return error.exit_code
    if verbose or os.environ.get("DNNTRAIN_DEBUG") == "1":
        traceback.print_exc()
    else:
        # The terminal may be gone, as after SIGHUP; the exit code still stands.
        SafeStream(sys.stderr).write_line(f"dnntrain: {error}")
    return error.exit_code
