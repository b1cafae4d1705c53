"""Run one rank of a search: `python -m dnntrain.tune.worker FOLDER`.

Only the search starts it, with torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dnntrain.config.decode import decode_config
from dnntrain.errors import DnntrainError
from dnntrain.tune.search import REQUEST_FILE, RESULT_FILE, tune_on_ranks
from dnntrain.utils.error_boundary import ErrorBoundary
from dnntrain.utils.world import World


def main() -> int:
    """Write the result into the folder that is the argument.

    The parent process reports how the search ended.
    """
    with ErrorBoundary() as boundary:
        boundary.exit_code = _run_rank(Path(sys.argv[1]))
    return boundary.exit_code


def _run_rank(folder: Path) -> int:
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    world = World.from_environ()
    try:
        result = tune_on_ranks(lambda: decode_config(request["config"]), world, request["target"], request["options"])
    except DnntrainError as error:
        return error.exit_code
    if world.is_main:
        (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
