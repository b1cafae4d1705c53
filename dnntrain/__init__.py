"""dnntrain: one command that trains a network faster, ships it smaller, and proves both.

result = dnntrain.train("data=digits", "model=small_cnn", run_dir="runs/first")
dnntrain.load("runs/first").predict("photo.png")
"""

from __future__ import annotations

from dnntrain.utils.threads import shorten_wait
from dnntrain.utils.torch_import import pause_collection_while_torch_loads

# typing is not imported for these: a signal ends a command well from the moment this package is imported.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = ["evaluate", "load", "plan", "predict", "train"]

if TYPE_CHECKING:
    from typing import Any

    from dnntrain.api import evaluate, load, plan, predict, train


# Both before torch is imported: every process of dnntrain imports this package first.
shorten_wait()
pause_collection_while_torch_loads()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dnntrain.utils.signals import delay_interrupt

        with delay_interrupt():
            from dnntrain import api

        return getattr(api, name)
    raise AttributeError(f"module 'dnntrain' has no attribute {name!r}")
