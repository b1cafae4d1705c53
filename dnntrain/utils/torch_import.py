"""Import torch in less time: no collection of cyclic garbage while its modules run.

They make half a million objects that stay, and each full collection would visit all of them. This
module imports nothing that Python has not loaded by itself.
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
        if name != "torch":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._pause_execution(spec.loader)
        return spec

    def _pause_execution(self, loader: object) -> None:
        execute = loader.exec_module  # type: ignore[attr-defined]

        def execute_without_collection(module: ModuleType) -> None:
            del loader.exec_module  # type: ignore[attr-defined]
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            is_enabled = gc.isenabled()
            gc.disable()
            try:
                execute(module)
            finally:
                if is_enabled:
                    if _is_process_of_a_command():
                        gc.freeze()  # later collections need not visit what stays
                    gc.enable()

        loader.exec_module = execute_without_collection  # type: ignore[attr-defined]


def _is_process_of_a_command() -> bool:
    """Return whether this is `dnntrain …` or `python -m dnntrain…`, and not another program that imports dnntrain."""
    words = sys.orig_argv[1:]
    script = words[0] if words else ""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return script.rpartition("/")[2] == "dnntrain" or module.partition(".")[0] == "dnntrain"
