"""Run one rank of a search: `python -m dnntrain.tune.worker FOLDER`.

Only the search starts it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dnntrain.config.decode import decode_config
from dnntrain.errors import DnntrainError
from dnntrain.tune.search import REQUEST_FILE, RESULT_FILE, tune_on_ranks
from dnntrain.utils.error_boundary import ErrorBoundary
from dnntrain.utils.files import read_text, write_text
from dnntrain.utils.processes import die_with_agent
from dnntrain.utils.world import World


def main() -> int:
    """Write the result into the folder that is the argument.

    The parent process reports how the search ended.
    """
    die_with_agent()
    with ErrorBoundary() as boundary:
        boundary.exit_code = _run_rank(Path(sys.argv[1]))
    return boundary.exit_code


def _run_rank(folder: Path) -> int:
    request = json.loads(read_text(folder / REQUEST_FILE))
    world = World.from_environ()
    try:
        result = tune_on_ranks(lambda: decode_config(request["config"]), world, request["target"], request["options"])
    except DnntrainError as error:
        return error.exit_code
    if world.is_main:
        write_text(folder / RESULT_FILE, json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
