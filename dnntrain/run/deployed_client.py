"""Train one client of a deployed federation: an app of Flower calls it on the machine of the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError
from dnntrain.federated.payload import Payload, find_sum_device
from dnntrain.run.session import open_session
from dnntrain.training.client_batches import ClientBatches
from dnntrain.training.evaluation import evaluate
from dnntrain.training.rounds import RoundExecutor
from dnntrain.training.trainer import build_trainer
from dnntrain.training.trainer_parts import TrainerOutputs
from dnntrain.utils.world import World


class DeployedClient:
    """A client, or the server, of a deployed federation.

    folder     holds config.yaml, the resolved configuration of the federation
    overrides  settings of this machine, such as data.root=/data
    client     the number of the client whose part of the data set this is; with a data set of its own
               the client takes all of it: federated.clients=1
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = (), client: int = 0) -> None:
        config = decode_config(compose(list(overrides), saved=read_saved_config(folder)))
        session = open_session(config, World())
        self._trainer = build_trainer(session.setup, Digests("", ""), TrainerOutputs())
        rounds, batches = self._trainer.loop.executor, self._trainer.pipeline
        if not isinstance(rounds, RoundExecutor) or not isinstance(batches, ClientBatches):
            raise ConfigError("the configuration is not federated", "export the app again with federated=fedavg")
        self._rounds, self._batches, self._client = rounds, batches, client
        self._session, self._payload = session, Payload(self._trainer.model)

    @property
    def rounds(self) -> int:
        """The number of rounds of the configuration."""
        return self._trainer.loop.progress.total_steps

    def get_weights(self) -> dict[str, Tensor]:
        """Return the weights and statistics by name, on the host."""
        return {name: value.detach().cpu().clone() for name, value in self._trainer.model.state_dict().items()}

    def train(self, weights: Mapping[str, Tensor], number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train the client's steps of round `number`, from 0; return its weights, its examples and the mean loss."""
        self._load(weights)
        progress = self._trainer.loop.progress
        for set_value in self._trainer.loop.setters:
            set_value(progress.get_step_info(number))
        task = self._batches.cohorts.make_task(self._client, number)
        losses, sent = self._rounds.train_client(
            task, number, self._payload.read(find_sum_device(self._session.device))
        )
        self._payload.write(sent)
        total = sum(float(loss.total) for loss in losses) / max(1, sum(int(loss.weight) for loss in losses))
        return self.get_weights(), {"num-examples": task.weight, "train_loss": total}

    def evaluate(self, weights: Mapping[str, Tensor]) -> dict[str, float | int]:
        """Return the metrics of the weights on this machine's test split."""
        self._load(weights)
        session, data = self._session, self._session.data
        batches = self._trainer.make_batches(data.dataset.test, data.test, World())
        outputs = self._trainer.outputs
        task, model = session.config.task, self._trainer.model
        return evaluate(task, data.spec, model, outputs, batches, lambda sums: sums, session.device)

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        state = self._trainer.model.state_dict(keep_vars=True)
        if set(state) != set(weights):
            raise ConfigError("the weights are of another model", "export the app again, to the server and all clients")
        for name, value in state.items():
            value.data.copy_(weights[name].reshape(value.shape))
