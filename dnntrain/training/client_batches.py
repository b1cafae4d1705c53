"""The batches of each client of a federated run, and the clients of each round."""

from __future__ import annotations

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.federated.cohort import Cohorts
from dnntrain.federated.partition import make_parts
from dnntrain.input.augment import Augmentation
from dnntrain.input.normalize import make_normalizer
from dnntrain.input.pipeline import is_resident
from dnntrain.input.prepared import PreparedData
from dnntrain.input.resident import ResidentPipeline, make_gatherer
from dnntrain.input.row_source import RowSource
from dnntrain.input.sampler import BatchSchedule, BatchSchedules
from dnntrain.input.table_file import to_texts
from dnntrain.planning.parallelism import find_kept_block_size
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Hooks, PhaseMarker, StepBatch, TargetKind
from dnntrain.protocols.federation import Federation
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.rng import Index
from dnntrain.utils.world import World


class ClientBatches:
    """The batches of each client: those of a run whose training examples are the client's alone.

    As the pipeline of the run it takes rounds, which have no micro-batch of their own.
    """

    name = "resident"
    steps_per_epoch = 1

    def __init__(
        self, config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks, federation: Federation, device: str
    ) -> None:
        self._mark: PhaseMarker | None = None
        self._config, self._plan, self._hooks, self._source = config, plan, hooks, data.dataset.train
        self.parts = find_parts(config, data, federation)
        sizes = tuple(len(part) for part in self.parts)
        self.cohorts = Cohorts(federation, sizes, config.train.batch_size, config.seed, config.train.drop_last)
        self._gather = make_gatherer(
            self._source,
            make_normalizer(data.dataset.inputs, device, plan.channels_last),
            device,
            Augmentation(hooks.crop_padding, hooks.flip_probability),
            hooks.image_transforms,
            hooks.mask_transforms,
        )

    def open_client(self, client: int) -> ResidentPipeline:
        """Return the batches of `client` by the number of its step."""
        config, part = self._config, self.parts[client]
        batch_size = min(config.train.batch_size, len(part))
        timetable = EpochSchedule.constant(len(part), batch_size, config.train.drop_last)
        schedule = BatchSchedule(
            part,
            config.seed,
            batch_size,
            self._plan.micro_batch_size,
            World(),
            config.data.mix_block_size,
            self._hooks.augment_copies,
            find_kept_block_size(config),
            drop_last=timetable.drop_last,
            classes=self._source.labels[part] if config.data.sampler == "balanced" else None,
        )
        schedules = BatchSchedules(schedule, timetable)
        pipeline = ResidentPipeline(self._source, schedules, self._gather, self._hooks.batch_transforms)
        if self._mark is not None:
            pipeline.mark_phases(self._mark)
        return pipeline

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Mark the phases of the clients that are opened from now on."""
        self._mark = mark

    def take(self, step: int) -> StepBatch:
        """Return round `step` as a step: its examples on all ranks, and no micro-batch."""
        return StepBatch((), self.cohorts.plan(step).examples)

    def get_skipped_examples(self) -> dict[str, str]:
        return {self._source.describe(index): reason for index, reason in self._source.failures.items()}

    def close(self) -> None:
        """Do nothing: no process reads."""


def check_clients(config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks, device: str) -> None:
    """Raise ConfigError if the examples or the model do not suit the clients of a federated run."""
    federation = hooks.federation
    if federation is None:
        return
    if not is_resident(config.data, data.dataset.train, device):
        raise ConfigError(
            "federated does not support images that are read again each time, because each client would need "
            "reading processes of its own",
            "use data.pipeline=resident",
        )
    sizes = [len(part) for part in find_parts(config, data, federation)]
    if federation.privacy.mode != "none" and plan.model.batch_norms:
        raise ConfigError(
            f"federated.dp={federation.privacy.mode} does not support batch norm, whose statistics would leave clients "
            "without noise",
            "use norm=group, or a model without batch norm",
        )
    if federation.privacy.mode != "none" and (config.data.measures_training or data.spec.targets.mean):
        raise ConfigError(
            f"federated.dp={federation.privacy.mode} does not support these data, because the form of their inputs or "
            "targets, such as means, categories or tokens, is measured on the examples of clients without noise",
            "use federated.dp=none, or data with a fixed form: data=fashion_mnist",
        )
    wholes = [min(config.train.batch_size, size) for size in sizes]
    rests = [] if config.train.drop_last else [size % whole for size, whole in zip(sizes, wholes, strict=True)]
    if plan.model.batch_norm_values == 1 and config.norm.batch_statistics and 1 in (*wholes, *rests):
        raise ConfigError(
            f"batch norm in {plan.model.name} cannot train on one example alone, as in the last batch of a client",
            "use norm=group, train.drop_last=true, or another train.batch_size",
        )


def find_parts(config: RunConfig, data: PreparedData, federation: Federation) -> list[Index]:
    """Return the training examples of each client."""
    labels = data.dataset.train.labels[data.train] if data.spec.targets.kind is TargetKind.CLASS else None
    values = read_column(data, federation.partition.column)
    return make_parts(federation.partition, federation.clients, data.train, labels, values, config.seed)


def read_column(data: PreparedData, name: str) -> list[str] | None:
    """Return the value of a column of the table for each training example; None if the data have no such column.

    The model need not read the column.
    """
    source = data.dataset.train
    if isinstance(source, RowSource):
        values = source.table.columns.get(name)
        return None if values is None else to_texts(values)[data.train].tolist()
    places = [place for place, column in enumerate(data.spec.inputs.columns) if column.name == name]
    inputs = source.get_resident_inputs()
    if not places or inputs is None:
        return None
    return [str(value) for value in inputs[:, places[0]].numpy()[data.train].tolist()]
