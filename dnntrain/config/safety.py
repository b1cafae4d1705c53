"""Reject configurations that name code to run, print secrets or control a terminal."""

from __future__ import annotations

import re
from typing import Any

from dnntrain.utils.terminal_text import clean_line, escape_letter, is_clean

MAX_VALUE_BYTES = 64 * 1024

_INSTANTIATE = re.compile(r"_(target|partial|recursive|convert|args)_")
_INTERPOLATION = re.compile(r"\$\{")
_KEY_REFERENCE = re.compile(r"\$\{\s*[\w.\[\]-]+\s*\}")
_ENVIRONMENT = re.compile(r"""\$\{\s*oc\.env\s*:\s*(['"]?)([A-Za-z_]\w*)\1\s*[,}]""")
_RESOLVER = re.compile(r"\$\{\s*([^\s{}:]+)\s*:")

_READABLE_WORDS = (
    "CI CI_COMMIT_SHA CI_JOB_ID GITHUB_RUN_ID GITHUB_SHA",
    "CONDA_PREFIX HOME HOST HOSTNAME LOGNAME PROJECT PWD USER USERNAME VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES LOCAL_RANK MKL_NUM_THREADS NODE_RANK NPROC OMP_NUM_THREADS RANK WORLD_SIZE",
    "DATA DATA_DIR DATA_ROOT DATADIR DATASETS_DIR LOCAL_SCRATCH OUTPUT_DIR SCRATCH SCRATCH_DIR TEMP TMP TMPDIR",
    "EXPERIMENT GROUP JOB_ID JOB_NAME RUN_DIR RUN_ID RUN_LABEL RUN_NAME SEED TRIAL WORK WORKDIR",
    "LSB_JOBID PBS_ARRAY_INDEX PBS_JOBID PBS_JOBNAME SGE_TASK_ID",
    "SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_CPUS_PER_TASK SLURM_JOB_ID SLURM_JOB_NAME SLURM_JOB_NUM_NODES",
    "SLURM_JOB_PARTITION SLURM_LOCALID SLURM_NNODES SLURM_NODEID SLURM_NTASKS SLURM_NTASKS_PER_NODE SLURM_PROCID",
    "SLURM_SUBMIT_DIR SLURM_TMPDIR XDG_CACHE_HOME XDG_DATA_HOME",
)

#: The variables that a configuration may read: resolved values are written to disk.
READABLE_VARIABLES = frozenset(" ".join(_READABLE_WORDS).split())

#: Variables with this prefix may be read too, unless their names look like secrets.
_READABLE_PREFIX = "DNNTRAIN_"
_SECRET = re.compile(
    r"TOKEN|KEY|SECRET|PASS|PWD|PHRASE|CREDENTIAL|AUTH|COOKIE|SESSION|PRIVATE|SIGNATURE|DSN|URI|URL", re.I
)
_HYDRA_REASONS = {
    "searchpath": "name the folder with --config-dir DIR instead",
    "launcher": "it would load external code",
    "sweeper": "it would load external code",
    "callbacks": "it would load external code",
    "job_logging": "it would load external code; use -q or -v",
    "hydra_logging": "it would load external code; use -q or -v",
    "run": "set the run directory with run_dir=",
    "sweep": "set the run directory with run_dir=",
}


def find_key_problem(key: str) -> str | None:
    """Return the reason why a configuration cannot set `key`, or None."""
    if _INSTANTIATE.search(key):
        return "a configuration is data: it cannot name code to run"
    first, _, rest = re.sub(r"[/@:]", ".", key).partition(".")
    if first == "hydra":
        reason = _HYDRA_REASONS.get(rest.partition(".")[0], "dnntrain sets up Hydra itself")
        return f"settings of hydra cannot be changed: {reason}"
    return None


def find_text_problem(text: str) -> str | None:
    """Return the reason why the command line cannot contain `text`, or None.

    The reasons are size, control characters, and bytes that are not text.
    """
    if len(text) > MAX_VALUE_BYTES or len(text.encode("utf-8", "replace")) > MAX_VALUE_BYTES:
        return f"longer than {MAX_VALUE_BYTES // 1024} KiB"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds bytes that are not UTF-8"
    if not is_clean(text):
        letter = next(letter for letter in text if not is_clean(letter))
        return f"holds the control character '{escape_letter(letter)}'"
    return None


def find_value_problem(value: Any) -> str | None:
    """Return the reason why interpolations in `value` are not supported, or None.

    An interpolation may refer only to other keys and to harmless variables.
    """
    if isinstance(value, dict):
        reasons = [find_key_problem(str(key)) for key in value] + [find_value_problem(item) for item in value.values()]
        return next((reason for reason in reasons if reason), None)
    if isinstance(value, (list, tuple)):
        return next((reason for item in value if (reason := find_value_problem(item))), None)
    if not isinstance(value, str) or not has_interpolation(value):
        return None
    for match in _INTERPOLATION.finditer(value):
        if reason := _find_interpolation_problem(value[match.start() :]):
            return reason
    return None


def _find_interpolation_problem(text: str) -> str | None:
    """Return the reason why the interpolation at the beginning of `text` is not supported, or None."""
    if _KEY_REFERENCE.match(text):
        return None
    if environment := _ENVIRONMENT.match(text):
        name = environment[2]
        if name in READABLE_VARIABLES or (name.startswith(_READABLE_PREFIX) and not _SECRET.search(name)):
            return None
        if _SECRET.search(name):
            return f"the variable {shorten(name, 40)} looks like a secret, and the configuration is written to disk"
        return (
            f"${{oc.env:{shorten(name, 40)}}} cannot be resolved: a configuration reads only the variables of a list, "
            f"because it is written to disk; export it as {_READABLE_PREFIX}NAME, or write the value itself"
        )
    if (resolver := _RESOLVER.match(text)) and resolver[1] != "oc.env":
        return f"the resolver {shorten(resolver[1], 40)!r} is not supported; use ${{other.key}} or ${{oc.env:NAME}}"
    return "the interpolation cannot be read; write it plainly: ${other.key}, ${oc.env:NAME} or ${oc.env:NAME,default}"


def has_interpolation(value: Any) -> bool:
    """Return whether `value`, or an item of it, refers to another key or to a variable.

    The type of such a value is known only after it is resolved.
    """
    if isinstance(value, (list, tuple, dict)):
        return any(map(has_interpolation, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and _INTERPOLATION.search(value) is not None


def shorten(text: str, width: int = 80) -> str:
    """Return `text` for display: on one line, control characters escaped, cut at `width`."""
    safe = clean_line(text[: width + 1])
    return safe if len(safe) <= width else f"{safe[: width - 1]}…"
