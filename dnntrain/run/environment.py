"""Collect packages, processor, variables and code that a result may depend on, for env.json."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import Any

from dnntrain.utils.json_files import to_strict_json
from dnntrain.utils.threads import WAIT_VARIABLES
from dnntrain.utils.versions import read_version

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    *WAIT_VARIABLES,
    "NO_COLOR",
    "SLURM_JOB_ID",
    "TORCH_LOGS",
)
_PACKAGES = ("dnntrain", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors", "pillow", "timm")

#: Settings of a repository, as `git config --show-scope --name-only` lists them, for which `git status` runs programs.
_RUNS_PROGRAMS = re.compile(r"(local|worktree)\t(filter\.|core\.fsmonitor|core\.sshcommand|diff\.)", re.IGNORECASE)


def collect_environment() -> dict[str, Any]:
    """Return code, packages, processor and variables that a result may depend on.

    Variables are from an allow-list only.
    """
    from dnntrain.utils.hardware import probe_hardware

    hardware = probe_hardware("cpu")
    facts: dict[str, Any] = to_strict_json(
        {
            "argv": sys.argv[1:],
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {package: version for package in _PACKAGES if (version := read_version(package))},
            "git": _read_git_state(),
            "cpu": {"model": hardware.cpu_model, "cores": hardware.cores, "features": hardware.cpu_features},
            "memory_bytes": hardware.memory_bytes,
            "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        }
    )
    return facts


def _read_git_state() -> dict[str, Any]:
    """Return the commit of the working folder, and whether it has uncommitted changes.

    Empty outside of a repository. A repository may come from a stranger, and its settings may name
    programs that `git status` runs; then it is unknown whether it has changes.
    """
    import subprocess

    def run_git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        commit = run_git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return {}
    try:
        settings = run_git("config", "--list", "--show-scope", "--name-only").splitlines()
        if any(_RUNS_PROGRAMS.match(setting) for setting in settings):
            return {"commit": commit}
        return {"commit": commit, "dirty": bool(run_git("status", "--porcelain", "--ignore-submodules=dirty"))}
    except (OSError, subprocess.SubprocessError):  # as git before 2.26, which does not know --show-scope
        return {"commit": commit}
