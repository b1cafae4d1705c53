"""Predict how much a setting can gain, from the phases of a step and the rates of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnntrain.protocols.speed import SpeedAttempt, SpeedSetting
from dnntrain.training import step_phases as phase
from dnntrain.tune.search import measure_on_ranks
from dnntrain.tune.speed_settings import count_readers
from dnntrain.tune.step_time import GAPS, Rate, StepTime, measure_step_time
from dnntrain.utils.hardware import release_memory, use_threads

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Fewer threads wait less for each other, and fewer readers leave their cores to the passes; each gains about this.
_FREED_CORES_GAIN = 1.05
#: Passes that reach the rate of a matrix product may still become faster by this share of their time.
_LEAST_LOSS = 0.05
#: Compiling takes this long at least; a run that cannot gain so many seconds by it is not compiled.
_LEAST_COMPILE_S = 5.0
#: A setting that cannot gain this factor is not tried.
LEAST_EXPECTED_GAIN = 1.02


@dataclass(frozen=True)
class Roofline:
    """The limits of a step on this machine.

    step         its time by phase
    passes_rate  the rate of the passes as a share of that of a matrix product
    bf16_factor  how many times as fast a matrix product is in bf16 as in float32
    threads      threads of the run
    workers      its reading processes
    """

    step: StepTime
    passes_rate: float
    bf16_factor: float
    threads: int
    workers: int

    def predict_gain(self, key: str, value: str) -> float:
        """Return the ratio of times that a setting can be expected to reach at most.

        A data setting can hide the data, one of the layout the communication. bf16 makes the passes as
        many times as fast as a matrix product, and compiling brings them to its rate. A setting of another
        section, as of a plug-in, may gain anything.
        """
        bound = bound_gain(self.step, key)
        section = key.partition(".")[0]
        if section == "data":
            frees_cores = key != "data.num_workers" or int(value) < self.workers
            return max(bound, _FREED_CORES_GAIN) if frees_cores else bound
        if key == "precision":
            return bound_bf16_gain(self.step, self.bf16_factor)
        if section != "train":
            return bound
        compute = 1 - 1 / bound
        passes = _get_passes_share(self.step)
        if key == "train.cpu_threads":
            is_more = int(value) > self.threads
            return compute_bound(compute * (1 - self.threads / int(value))) if is_more else _FREED_CORES_GAIN
        return compute_bound(compute - passes + passes * max(1 - self.passes_rate, _LEAST_LOSS))

    def order_attempts(
        self, settings: list[SpeedSetting], total_steps: int = 0
    ) -> tuple[list[SpeedAttempt], list[tuple[str, float]]]:
        """Return the attempts, and the overrides to leave out with what they can gain.

        Those that can gain the most come first; of equal ones, those that change the numbers least.
        `total_steps` are those in which a slow start must pay; 0: unknown.
        """
        gains = [
            (setting.make_attempt(value), self._predict_run_gain(setting.key, value, total_steps))
            for setting in settings
            for value in setting.values
        ]
        gains.sort(key=lambda item: -round(item[1], 2))
        attempts = [attempt for attempt, gain in gains if gain >= LEAST_EXPECTED_GAIN]
        return attempts, [(attempt.text, gain) for attempt, gain in gains if gain < LEAST_EXPECTED_GAIN]

    def _predict_run_gain(self, key: str, value: str, total_steps: int) -> float:
        """Return the ratio of times that a setting can reach in a run: compiling must be repaid."""
        gain = self.predict_gain(key, value)
        saved_s = self.step.seconds * total_steps * (1 - 1 / gain)
        return 1.0 if key == "train.compile" and total_steps and saved_s < _LEAST_COMPILE_S else gain


def bound_gain(step: StepTime, key: str) -> float:
    """Return the ratio of times if the phases that a setting can change took none."""
    section = key.partition(".")[0]
    if section == "data":
        return compute_bound(step.get_share(phase.DATA, phase.HOST_TO_DEVICE))
    if section == "parallel":
        return compute_bound(step.get_share(phase.COMMUNICATION))
    if section in ("train", "precision"):
        return compute_bound(step.get_share(phase.FORWARD, phase.BACKWARD, phase.PASSES, phase.OPTIMIZER, GAPS))
    return compute_bound(1.0)


def bound_bf16_gain(step: StepTime, factor: float) -> float:
    """Return the ratio of times if the passes became as many times as fast as a matrix product in bf16."""
    return compute_bound(_get_passes_share(step) * (1 - 1 / max(factor, 1.0)))


def _get_passes_share(step: StepTime) -> float:
    return step.get_share(phase.FORWARD, phase.BACKWARD, phase.PASSES)


def compute_bound(share: float) -> float:
    """Return the ratio of times if a share of the step took none."""
    return 1 / max(1 - share, 0.01)


def measure_session(session: Session, seconds: float) -> tuple[StepTime, tuple[Rate, ...]]:
    """Measure the phases of a step for about `seconds`, in this process or on the ranks of the layout."""
    if session.plan.ranks == 1:
        measured = measure_step_time(session, seconds)
        release_memory(session.device)  # the processes of probes need it
        return measured
    answer = measure_on_ranks(session, "phases", {"seconds": seconds})
    return StepTime(**answer["step"]), tuple(Rate(**rate) for rate in answer["rates"])


def measure_roofline(session: Session, seconds: float, tries_bf16: bool) -> Roofline:
    """Measure the limits of a step for about `seconds`; `tries_bf16`: also the rate of products in bf16."""
    plan = session.plan
    step, rates = measure_session(session, seconds)
    passes_rate = next((rate.share for rate in rates if rate.name == "forward and backward"), 0.0)
    factor = measure_bf16_factor(session) if tries_bf16 else 1.0
    return Roofline(step, passes_rate, factor, plan.threads, count_readers(session))


def measure_bf16_factor(session: Session) -> float:
    """Return how many times as fast a matrix product is in bf16 as in float32."""
    import torch

    from dnntrain.tune.attainable import measure_product_rate

    use_threads(session.plan.threads)
    factor = measure_product_rate(session.device, torch.bfloat16) / measure_product_rate(session.device, torch.float32)
    release_memory(session.device)
    return factor
