"""Define the options that every method with a teacher has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.config.fields import Literal, NonNegative, Positive, PositiveInt
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.protocols import BatchStage, DistillChoice, Hooks, Refusal


@dataclass(frozen=True)
class TeacherOptions(DistillChoice):
    """The teachers, how to compute their outputs, and where to cache them."""

    teacher: str | tuple[str, ...]  # run directory, export, torchvision:NAME[:WEIGHTS] or timm:NAME; or a list of them
    label_loss_weight: NonNegative = 1.0  # weight of the loss with the targets
    teacher_precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # number format of the teacher's layers
    teacher_compile: bool = False  # true: compile the teacher, which takes a minute at the first batch
    teacher_batch_size: PositiveInt = 32  # images per forward pass of the teacher, padded if there are fewer
    teacher_shard: Literal["auto", "never", "always"] = (
        "auto"  # never, always or auto: with FSDP, shard teachers of 50 million parameters or more
    )
    cache: Literal["none", "memory", "disk"] = (
        "none"  # keep outputs for images that occur again; disk: also for later runs
    )
    cache_dir: str | None = None  # folder of cache=disk; null: one per teacher and data set in the user's cache
    cache_size_gb: Positive = 4.0  # size limit of the cache, GB; outputs beyond it are computed each time

    def find_layout_refusals(self, dims: ParallelDims) -> Iterator[Refusal]:
        if self.teacher_shard == "always" and dims.shard == 1:
            yield Refusal(
                f"distill.teacher_shard=always: this layout ({dims}) does not shard weights",
                "use distill.teacher_shard=auto, or parallel=fsdp",
            )

    def check_with(self, hooks: Hooks) -> None:
        """Reject a cache if examples are mixed before the teacher sees them."""
        if self.cache != "none" and any(transform.stage is BatchStage.MIX for transform in hooks.batch_transforms):
            raise ConfigError(
                f"distill.cache={self.cache} has no effect, because mixed images differ in every epoch",
                "use distill.cache=none, or leave the mixing method out of augment",
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the teachers as the user typed them."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


def check_weights(**weights: float) -> None:
    """Raise ConfigError if every weight of the teacher's terms is 0."""
    if not any(weights.values()):
        zeros = " and ".join(f"distill.{name}=0" for name in weights)
        default = next(iter(weights))
        raise ConfigError(f"{zeros}: the teacher has no effect", f"use distill=none, or distill.{default} above 0")
