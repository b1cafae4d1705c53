"""What a choice of any group may have, and how it states what it cannot be combined with. The groups' own bases are in `groups.py`.

Everything that the planner, the trainer or a command asks of a choice is declared here or there, with a default. A choice inherits the
base of its group and overrides what differs; nothing is looked up by name. The bases are no dataclasses: what they declare is no option of
the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dnntrain.protocols.hook_types import LayoutRequirement

if TYPE_CHECKING:
    from dnntrain.distributed.parallel_dims import ParallelDims
    from dnntrain.protocols.context import BuildContext
    from dnntrain.protocols.hooks import Hooks
    from dnntrain.protocols.task import TaskFeature
    from dnntrain.utils.hardware import Hardware


class Refusal(NamedTuple):
    """Why a configuration cannot run, and the nearest override that can."""

    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.reason}\n  {self.hint}"


class Role(Enum):
    """Something that one setting of a run can do at most; the value follows "both"."""

    EVAL_WEIGHTS = "give the weights that are evaluated"
    BATCH_NORM_STATISTICS = "recompute the statistics of batch norm"
    IMAGE_OPERATIONS = "draw operations on each image, from the same list"
    DROPOUT = "set the rate of dropout"
    WEIGHT_FORM = "compute with weights in a way of their own"


@dataclass(frozen=True)
class Claim:
    """A setting takes a role: `setting` as it is typed (`model.dropout=0.2`), and the override that gives the role up."""

    role: Role
    setting: str
    remedy: str


@dataclass(frozen=True)
class RunFacts:
    """What a choice may ask of the run around it before anything is built.

    ranks           processes of the run
    batch_size      examples of an optimizer step, as set
    has_validation  whether there are validation examples
    has_test        whether the test split is evaluated at the end
    uses_loss_scale whether the precision scales the loss
    varies_images   whether anything changes training images at random
    claims          the roles that the settings of the run take
    """

    hardware: Hardware
    ranks: int
    batch_size: int
    has_validation: bool
    has_test: bool
    uses_loss_scale: bool
    varies_images: bool
    claims: Sequence[Claim] = ()

    def get_claims(self, role: Role) -> list[Claim]:
        """The claims of `role`, in the order of the groups."""
        return [claim for claim in self.claims if claim.role is role]


class Choice:
    """A choice of any group: a frozen dataclass whose fields are the options, with `build`."""

    def get_claims(self) -> Iterable[Claim]:
        """The roles that this choice takes. The plan refuses two claims of one role."""
        return ()

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        """Why it cannot run on `hardware`, as words that follow its name; None if it can."""
        return None

    def find_refusals(self, facts: RunFacts) -> Iterable[Refusal]:
        """Why this choice cannot be part of such a run."""
        return ()

    def find_layout_refusals(self, dims: ParallelDims) -> Iterable[Refusal]:
        """Why it cannot run on a layout of these degrees, besides its needs."""
        return ()

    def get_changed_options(self) -> Mapping[str, Any]:
        """The options whose values are not their defaults."""
        defaults = {option.name: option.default for option in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in vars(self).items() if name in defaults and value != defaults[name]}


class Method(Choice):
    """A choice that fills hooks of the trainer.

    needs             what it needs of the layout and of the task: refused where they do not meet it
    example_relation  "mixes" or "relates" if it does so to examples of a block (data.mix_block_size), which no layout may cut; else empty
    uses_validation   whether it looks at evaluations of the validation part
    """

    example_relation: ClassVar[str] = ""
    uses_validation: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature]:
        return frozenset()

    def build(self, context: BuildContext) -> Hooks:
        """What it gives the trainer. Raises ConfigError if it cannot work."""
        raise NotImplementedError

    def check_with(self, hooks: Hooks) -> None:
        """Raises ConfigError if it cannot work beside `hooks`, those of all methods of the run."""
