"""Import torch in less time: no collection of cyclic garbage while its modules run.

They make objects that stay for as long as the process lives, and each full collection would visit
all of them. This module imports only `gc` and `sys`, which are part of the interpreter.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def pause_collection_while_torch_loads() -> None:
    """Let the import of torch run without garbage collection. Does nothing if torch is loaded."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _TorchFinder())


class _TorchFinder:
    """Finds torch as the other finders do, and lets its import pause garbage collection."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch" or self not in sys.meta_path:
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        finders = [finder for finder in later if hasattr(finder, "find_spec")]
        spec = next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, "exec_module") and hasattr(spec.loader, "__dict__"):
            self._pause_execution(spec.loader)
        return spec

    def _pause_execution(self, loader: object) -> None:
        execute = loader.exec_module  # type: ignore[attr-defined]

        def execute_without_collection(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            is_enabled = gc.isenabled()
            gc.disable()
            try:
                execute(module)
            finally:
                if is_enabled:
                    if _is_process_of_a_command():
                        gc.freeze()  # later collections do not visit the objects of torch
                    gc.enable()

        loader.exec_module = execute_without_collection  # type: ignore[attr-defined]


def _is_process_of_a_command() -> bool:
    """Return whether this is `dnntrain …` or `python -m dnntrain…`, and not another program that imports dnntrain."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "").partition(".")[0] == "dnntrain"
        if not word.startswith("-"):
            return word.rpartition("/")[2] == "dnntrain"
    return False
