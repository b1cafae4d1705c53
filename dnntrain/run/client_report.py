"""Write federated.json: the clients of a federated run, the bytes sent, and the metric of each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.federated.accountant import PACKAGE, compute_privacy
from dnntrain.federated.partition import deal_like
from dnntrain.protocols import Batch, DeferredLogits, Metric, MetricInfo, TargetKind
from dnntrain.run.final_model import FinalModel
from dnntrain.training.client_batches import ClientBatches
from dnntrain.utils.rng import Index
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

FILE_NAME = "federated.json"


def write_client_report(session: Session, trainer: Trainer, final_model: FinalModel, directory: RunDirectory) -> None:
    """Write federated.json into the run if it is federated."""
    federation, batches = session.hooks.federation, trainer.pipeline
    if federation is None or not isinstance(batches, ClientBatches):
        return
    rounds, sent = trainer.loop.progress.step, trainer.states["federation"].state_dict()
    targets, source = session.data.spec.targets, session.data.dataset.train
    labels = source.labels if targets.kind is TargetKind.CLASS else None
    info, values, examples = evaluate_clients(session, trainer, final_model, batches.parts, labels)
    taken = np.bincount(
        [client for number in range(rounds) for client in batches.cohorts.plan(number).clients],
        minlength=federation.clients,
    )
    spent = compute_privacy(federation.privacy, federation.fraction, rounds, int(taken.max()))
    write_sealed_json(
        directory.path / FILE_NAME,
        {
            "algorithm": session.config.resolved["choices"]["federated"],
            "rounds": rounds,
            "clients": federation.clients,
            "partition": federation.partition.kind,
            "partition_digest": compute_bytes_digest(np.concatenate([[-1, *part] for part in batches.parts]).tobytes()),
            "bytes_up": sent["bytes_up"],
            "bytes_down": sent["bytes_down"],
            "class_names": [] if labels is None else list(targets.names),
            "sizes": [len(part) for part in batches.parts],
            "class_counts": []
            if labels is None
            else [np.bincount(labels[part], minlength=len(targets.names)).tolist() for part in batches.parts],
            "participations": taken.tolist(),
            "metric": info.name,
            "values": values,
            "val_examples": examples,
            **summarize_clients(values, info),
            **(
                {}
                if federation.privacy.mode == "none"
                else {"privacy": _describe_privacy(federation.privacy.mode, {} if spent is None else vars(spent))}
            ),
        },
    )


def _describe_privacy(mode: str, spent: dict[str, Any]) -> dict[str, Any]:
    return {"mode": mode, **(spent or {"note": f"epsilon needs noise and the package {PACKAGE}"})}


def evaluate_clients(
    session: Session,
    trainer: Trainer,
    final_model: FinalModel,
    parts: Sequence[Index],
    labels: NDArray[Any] | None,
) -> tuple[MetricInfo, list[float | None], list[int]]:
    """Return (the metric, its value for each client, the examples of each).

    The validation split is dealt to clients so that each has the class shares of its training
    examples, by `labels` of the source. A client without such an example has no value.
    """
    source, val, spec = session.data.dataset.train, session.data.val, session.data.spec
    info, task = session.plan.metrics[0], session.config.task
    metric = next((item for item in task.list_metrics(spec) if item.name == info.name), None)
    dealt = deal_like(parts, labels, val, session.config.seed)
    owner = np.repeat(np.arange(len(dealt)), [len(part) for part in dealt])
    sums = torch.zeros(len(dealt), metric.width if metric is not None else 2, dtype=torch.float64)
    model = final_model.model
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in trainer.make_batches(source, np.concatenate(dealt), World()):
            outputs: torch.Tensor | DeferredLogits = final_model.outputs(batch)
            for client in np.unique(owner[batch.position]).tolist():
                places = np.flatnonzero(owner[batch.position] == client)
                rows = torch.from_numpy(places).to(batch.inputs.device)
                part = Batch(batch.inputs[rows], batch.targets[rows], batch.index[places], batch.position[places])
                sums[client] += _sum_metric(session, metric, _select_outputs(outputs, rows), part).cpu()
    model.train(was_training)
    examples = [len(part) for part in dealt]
    name = info if metric is not None else MetricInfo("loss")
    return name, [_divide(metric, row, count) for row, count in zip(sums.tolist(), examples, strict=True)], examples


def _select_outputs(outputs: torch.Tensor | DeferredLogits, rows: torch.Tensor) -> Any:
    return outputs.select(rows) if isinstance(outputs, DeferredLogits) else outputs[rows].float()


def _sum_metric(session: Session, metric: Metric | None, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sums of the metric, or of the loss if the metric needs all examples at once."""
    if metric is not None:
        return metric.sums(outputs, batch).double()
    task = session.config.task
    loss = task.loss_sum(outputs, batch).double()
    return torch.stack([loss, torch.full_like(loss, task.loss_weight(len(batch), session.data.spec))])


def _divide(metric: Metric | None, sums: Sequence[float], examples: int) -> float | None:
    if not examples:
        return None
    return metric.value(sums) if metric is not None else sums[0] / sums[1]


def summarize_clients(values: Sequence[float | None], info: MetricInfo) -> dict[str, float | None]:
    """Return the mean over clients, the mean of the worst tenth of them, and the standard deviation."""
    known = np.sort([value for value in values if value is not None])
    if not len(known):
        return {"mean": None, "worst_tenth": None, "deviation": None}
    worst = known if info.higher_is_better else known[::-1]
    return {
        "mean": float(known.mean()),
        "worst_tenth": float(worst[: max(1, round(len(known) / 10))].mean()),
        "deviation": float(known.std()),
    }
