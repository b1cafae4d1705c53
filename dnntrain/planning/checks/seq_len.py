"""Find settings that a schedule of the sequence length does not support."""

from __future__ import annotations

from collections.abc import Iterator

from dnntrain.config.run_config import LightConfig
from dnntrain.protocols import OutputKind, Refusal, ScheduledParam

_LEAVE_OUT = "leave seq_len out of sched.applies_to"


def find_seq_len_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find a task without a loss for each token, and steps that are not counted by the run."""
    if ScheduledParam.SEQ_LEN not in config.sched.scheduled_params:
        return
    choices = config.resolved["choices"]
    if config.task.output_kind is not OutputKind.TOKENS:
        yield Refusal(
            f"sched.applies_to=seq_len cuts the windows of a text, each token of which must have a loss; "
            f"task={choices['task']} has one loss for each example",
            f"use task=language_model with a text, such as data=python_library, or {_LEAVE_OUT}",
        )
    if config.federated.is_federated:
        yield Refusal(
            f"federated={choices['federated']} does not support seq_len in sched.applies_to, because clients count "
            "their own steps",
            _LEAVE_OUT,
        )
