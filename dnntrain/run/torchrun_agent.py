"""Run torchrun for dnntrain: `python -m dnntrain.run.torchrun_agent RUN PARENT ARGUMENTS…`.

Not for users. It ends with its parent process, logs to logs/torchrun.log, and writes the end of the
first rank to logs/agent.json.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.utils.processes import die_with_parent

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def main() -> int:
    """Run torchrun; return the exit code of the rank that failed first."""
    folder, parent, *words = sys.argv[1:]
    die_with_parent(int(parent))
    logs = Path(folder) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from dnntrain.utils.files import write_json

    _log_to_file(logs / "torchrun.log")
    start_time_s = time.time()
    try:
        run(parse_args(words))  # type: ignore[no-untyped-call]
        return 0
    except ChildFailedError as error:
        rank, failure = _find_first_failure(error.failures, start_time_s)
        write_json(logs / "agent.json", {"rank": rank, **_describe_failure(failure)})
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)


def _find_first_failure(failures: dict[int, ProcessFailure], started_s: float) -> tuple[int, ProcessFailure]:
    """Return the rank that ended first.

    A rank killed by a signal other than torchrun's own comes before ranks that torchrun ended.
    """
    killed_ranks = {
        rank: failure
        for rank, failure in failures.items()
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM
    }
    return min((killed_ranks or failures).items(), key=lambda pair: (pair[1].timestamp or started_s, pair[0]))


def _describe_failure(failure: ProcessFailure) -> dict[str, Any]:
    name = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else ""
    return {"pid": failure.pid, "exit_code": failure.exitcode, "signal": name}


def _log_to_file(path: Path) -> None:
    """Redirect torch's loggers, which write to stderr by their own handlers, to the file."""
    for name in ("torch", *(name for name in logging.root.manager.loggerDict if name.startswith("torch."))):
        logger = logging.getLogger(name)
        for handler_to_remove in [*logger.handlers]:
            logger.removeHandler(handler_to_remove)
        logger.propagate = True
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)


if __name__ == "__main__":
    # torchrun passes its environment on to the ranks.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    sys.exit(main())
