"""One rank of a run that dnntrain itself launched: `python -m dnntrain.verbs.rank RUN_DIR`, under torchrun. Not for people."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Trains with the resolved configuration that the parent wrote."""
    from dnntrain.config.decode import decode, load_config
    from dnntrain.run_directory import split_words
    from dnntrain.verbs.guarded import guarded
    from dnntrain.verbs.train import train
    from dnntrain.world import World

    def body() -> int:
        path = Path(sys.argv[1])
        overrides = split_words((path / "overrides.txt").read_text(encoding="utf-8"))
        config = decode({**load_config(path / "config.yaml"), "run_dir": str(path)})
        train(config, World.from_environ(), display=os.environ.get("DNNTRAIN_DISPLAY", "auto"), overrides=overrides)
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
