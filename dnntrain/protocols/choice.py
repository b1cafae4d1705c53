"""The base class of all choices, and the types that report conflicts.

`groups.py` has the base class of each group. Both files declare every attribute that the planner,
the trainer or a command reads from a choice, with a default. A choice inherits the base class of
its group and overrides the attributes that differ; nothing is looked up by name. The base classes
are not dataclasses, so their attributes are not options of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dnntrain.protocols.hook_types import LayoutRequirement
from dnntrain.protocols.method_checks import check_results_of

if TYPE_CHECKING:
    from dnntrain.distributed.parallel_dims import ParallelDims
    from dnntrain.protocols.context import BuildContext
    from dnntrain.protocols.data_spec import DataFeature
    from dnntrain.protocols.hooks import Hooks
    from dnntrain.protocols.speed import SpeedFacts, SpeedSetting
    from dnntrain.protocols.task import TaskFeature
    from dnntrain.utils.hardware import Hardware


class Refusal(NamedTuple):
    """The reason why a configuration cannot run, and an override that can."""

    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.reason}\n  {self.hint}"


class Role(Enum):
    """A role that at most one setting of a run can take.

    The value completes the message "A and B both …".
    """

    EVAL_WEIGHTS = "give the weights that are evaluated"
    BATCH_NORM_STATISTICS = "recompute the statistics of batch norm"
    IMAGE_OPERATIONS = "draw operations on each image, from the same list"
    DROPOUT = "set the rate of dropout"
    WEIGHT_FORM = "replace the weights that layers compute with"
    LINEAR_FORM = "replace the linear layers"
    ACTIVATION_RANGES = "measure ranges of activations in training"
    LAYER_WEIGHTS = "change the weights that layers have"


@dataclass(frozen=True)
class Claim:
    """The claim of a setting to a role.

    setting  the setting as it is typed, such as `model.dropout=0.2`
    remedy   the override that gives the role up
    """

    role: Role
    setting: str
    remedy: str


@dataclass(frozen=True)
class RunFacts:
    """The facts about a run that a choice can check before anything is built.

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
        """Return the claims to `role`, in the order of the groups."""
        return [claim for claim in self.claims if claim.role is role]


class Choice:
    """A choice of any group.

    It is a frozen dataclass with a method `build`; its fields are its options.

    claimed_roles  names of the roles that `get_claims` returns whatever the options, as literals:
                   they are read before torch is imported
    """

    claimed_roles: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_results_of(cls)

    def get_claims(self) -> Iterable[Claim]:
        """Return the roles that this choice takes.

        The plan fails if two settings claim one role.
        """
        return ()

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        """Return why the choice cannot run on `hardware`, or None if it can.

        The reason completes a sentence that begins with the choice: "precision=fp16 needs a GPU".
        """
        return None

    def find_refusals(self, facts: RunFacts) -> Iterable[Refusal]:
        """Return the reasons why the choice cannot be part of such a run."""
        return ()

    def find_layout_refusals(self, dims: ParallelDims) -> Iterable[Refusal]:
        """Return why the choice cannot run on a layout of these degrees.

        Unmet `needs` are reported without it.
        """
        return ()

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        """Return the settings that may make a run with this choice faster, for `dnntrain tune speed`."""
        return ()

    def list_code_options(self) -> tuple[str, ...]:
        """Return the options in use that name code to run, or an address to send to.

        A saved configuration is data: these options of it act only if the command sets them too, or
        says `--trust`.
        """
        return ()

    def get_changed_options(self) -> Mapping[str, Any]:
        """Return the options whose values differ from their defaults."""
        defaults = {option.name: option.default for option in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in vars(self).items() if name in defaults and value != defaults[name]}


class Method(Choice):
    """A choice that returns hooks for the trainer.

    needs             properties of the layout, of the task and of the data that the method needs; the
                      plan reports those that are missing, before torch is imported if `needs` is a
                      class variable of the form frozenset({LayoutRequirement.WHOLE_MODEL}). A default
                      method of the root configuration with such needs is left out if they are missing
    example_relation  "mixes" or "relates" if the method mixes or relates the examples of a block
                      (data.mix_block_size), so that no layout may cut a block; else empty
    uses_validation   whether the method reads evaluations of the validation split
    """

    example_relation: ClassVar[str] = ""
    uses_validation: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature | DataFeature]:
        return frozenset()

    def build(self, context: BuildContext) -> Hooks:
        """Return the hooks of the method.

        Raises ConfigError if it cannot work in this run.
        """
        raise NotImplementedError

    def check_with(self, hooks: Hooks) -> None:
        """Raise ConfigError if the method cannot work with `hooks`.

        `hooks` has the merged hooks of all methods of the run.
        """
