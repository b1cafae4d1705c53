"""Write the batch script of a Slurm run, and the command that queues a sweep.

Both are pure functions of the choice and the arguments.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dnntrain.choices.launch.slurm import SlurmLaunch

#: Exit code of a run that was preempted and has saved.
_PREEMPTED_EXIT_CODE = 75

#: The fields in the queue's answer for a job that may be queued again: it runs, or was preempted.
_STATES = "'JobState=RUNNING\\|PreemptTime=[0-9]'"

#: Options of launch=slurm that launch=local also has.
_SHARED_KEYS = ("launch.nproc", "launch.hang_timeout")

#: The address of the rendezvous: on one node nothing else can reach it.
_LOOPBACK_ADDRESS = "127.0.0.1"
_FIRST_HOST = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'


def make_batch_script(choice: SlurmLaunch, name: str, folder: Path, program: Sequence[str]) -> str:
    """Return the batch script for sbatch, with one task per rank.

    The ranks' rendezvous is at a port that depends on the job's number; on one node it is on the
    loopback interface. Slurm signals the tasks before the time limit (USR1) and on preemption (TERM):
    they save and end with code 75, which queues the job again.
    """
    options = {
        "job-name": name,
        "nodes": choice.nodes,
        "ntasks-per-node": choice.tasks_per_node,
        "cpus-per-task": choice.cpus_per_rank,
        "gpus-per-node": choice.gpus_per_node or None,
        "mem": choice.mem_per_node,
        "time": choice.time,
        "partition": choice.partition,
        "account": choice.account,
        "output": folder / "logs" / "slurm-%j.txt",
        "open-mode": "append",
        "signal": f"USR1@{round(choice.signal_before_end_s)}",
    }
    head = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    head.append("#SBATCH --requeue" if choice.requeue else "#SBATCH --no-requeue")
    requeue_lines = [
        "# A job that the user cancels is no longer running, and stays canceled.",
        f'if [ $code = {_PREEMPTED_EXIT_CODE} ] && scontrol show job "$SLURM_JOB_ID" | grep -q {_STATES}; then',
        '  echo "saved; the job is queued again"',
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 60',
        "fi",
    ]
    # srun does not take it from the job.
    cpus = f"--cpus-per-task={choice.cpus_per_rank} " if choice.cpus_per_rank else ""
    return "\n".join(
        [
            "#!/bin/bash",
            *head,
            *choice.setup,
            f"export MASTER_ADDR={_LOOPBACK_ADDRESS if choice.nodes == 1 else _FIRST_HOST}",
            "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
            "# The ranks sign their messages with this.",
            "export DNNTRAIN_SECRET=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')",
            "# The shell ignores the signals that Slurm sends to all; the tasks receive them, too.",
            "trap : TERM USR1",
            f"srun {cpus}--kill-on-bad-exit=0 {shlex.join(program)}",
            "code=$?",
            *(requeue_lines if choice.requeue else []),
            "exit $code",
            "",
        ]
    )


def make_sweep_command(choice: SlurmLaunch, arguments: Sequence[str]) -> str:
    """Return the sbatch command that runs the sweep of `arguments` in one job.

    The job has one node, and the trials share its resources. sbatch signals dnntrain itself (B:)
    before the time limit: the trials save, and the same command resumes them.
    """
    options = {
        "gpus-per-node": choice.gpus_per_node or None,
        "cpus-per-task": choice.cpus_per_rank and choice.cpus_per_rank * choice.tasks_per_node,
        "mem": choice.mem_per_node,
        "time": choice.time,
        "partition": choice.partition,
        "account": choice.account,
        "signal": f"B:TERM@{round(choice.signal_before_end_s)}",
    }
    sbatch_options = [f"--{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    keys = [argument.lstrip("+").partition("=")[0] for argument in arguments]
    sweep_arguments = [
        argument
        for argument, key in zip(arguments, keys, strict=True)
        if key != "launch" and (not key.startswith("launch.") or key in _SHARED_KEYS)
    ]
    local = [] if "launch" in keys else ["launch=local"]
    body = "; ".join([*choice.setup, f"exec {shlex.join(['dnntrain', '-m', *sweep_arguments, *local])}"])
    return " ".join(["sbatch", *sbatch_options, f"--wrap={shlex.quote(body)}"])
