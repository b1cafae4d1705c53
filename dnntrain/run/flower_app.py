"""Write a Flower app that trains a configuration over real clients.

The app imports dnntrain and Flower (`flwr`), in an environment of its own; dnntrain does not need
Flower.
"""

from __future__ import annotations

import json
from pathlib import Path

from dnntrain.config.run_config import RunConfig
from dnntrain.config.saved_config import CONFIG_NAME, write_saved_config
from dnntrain.errors import ConfigError
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.files import write_text

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "A federation that trains a configuration of dnntrain."
license = "Apache-2.0"
dependencies = ["flwr>=1.42", "dnntrain"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "dnntrain"

[tool.flwr.app.components]
serverapp = "federation.server_app:app"
clientapp = "federation.client_app:app"

[tool.flwr.app.config]
rounds = {rounds}
fraction = {fraction}
clients = {clients}
settings = ""
output = {output}
"""

_CONNECTION = """\
[superlink]
default = "local"

[superlink.local]
address = "127.0.0.1:8000"
insecure = true
"""

_CLIENT = '''\
"""A client: trains the configuration on the examples of this machine."""

import os
from functools import cache
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from dnntrain.run.deployed_client import DeployedClient  # noqa: E402

app = ClientApp()


@cache
def open_client(settings: str, number: int) -> DeployedClient:
    return DeployedClient(Path(__file__).parent, settings.split(), number)


@app.train()
def train(message: Message, context: Context) -> Message:
    node = context.node_config
    client = open_client(str(node.get("settings", "")), int(node.get("client", 0)))
    number = int(message.content["config"]["server-round"]) - 1
    weights, figures = client.train(message.content["arrays"].to_torch_state_dict(), number)
    content = RecordDict({"arrays": ArrayRecord(weights), "metrics": MetricRecord(figures)})
    return Message(content=content, reply_to=message)
'''

_SERVER = '''\
"""The server: the mean of the clients, round by round, and the test of the final weights."""

import json
import os
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import ArrayRecord, Context  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from dnntrain.run.deployed_client import DeployedClient  # noqa: E402

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    options = context.run_config
    server = DeployedClient(Path(__file__).parent, str(options["settings"]).split())
    clients = int(options["clients"])
    strategy = FedAvg(
        fraction_train=float(options["fraction"]),
        fraction_evaluate=0.0,
        min_train_nodes=max(1, round(float(options["fraction"]) * clients)),
        min_evaluate_nodes=0,
        min_available_nodes=clients,
    )
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(server.get_weights()), num_rounds=int(options["rounds"])
    )
    weights = result.arrays.to_torch_state_dict()
    folder = Path(str(options["output"]))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    metrics = server.evaluate(weights)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    print("dnntrain: test", json.dumps(metrics), flush=True)
'''

_README = """\
# A federation of dnntrain and Flower

`federation/config.yaml` is the configuration. Server and clients need `pip install flwr dnntrain`.

On the server:

    export FLWR_TELEMETRY_ENABLED=0
    flower-superlink --insecure --disable-runtime-dependency-installation

On the machine of each client, with a number from 0 on, and settings of the machine:

    export FLWR_TELEMETRY_ENABLED=0
    flower-supernode --insecure --superlink SERVER:8000 --port 9094 \\
        --node-config 'client=0 settings="data.root=/data"'

Several clients on one machine need different ports. `SERVER` is 127.0.0.1 on the same machine; the
server listens elsewhere with `flower-superlink --host`. A client with a data set of its own, not a
part of a common one, sets `federated.clients=1` and `client=0`. Then, from this folder, whose folder
`flower` names the server:

    export FLWR_TELEMETRY_ENABLED=0 FLWR_HOME=$PWD/flower
    flwr run . local --stream

The final weights and their test are in the folder `output` of `pyproject.toml`.

`--insecure` sends weights without encryption: use it on one machine, or give both sides certificates.
Each client's weights are seen by the server.
"""


def write_flower_app(config: RunConfig, folder: Path) -> list[Path]:
    """Write the app into `folder`, which must be new or empty, and return its files.

    Raises ConfigError if Flower's server cannot do what the configuration asks for.
    """
    federated = config.federated
    if refusal := federated.find_export_refusal():
        raise ConfigError(refusal.reason, refusal.hint)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} must be a new or an empty folder", "name another one")
    options = config.resolved["federated"]
    name = "".join(letter if letter.isalnum() else "-" for letter in config.name.lower()).strip("-") or "federation"
    length = federated.set_duration(config.train.duration)
    if length.unit == "s":
        raise ConfigError(
            f"export-app does not support train.duration={length}, because Flower counts rounds",
            "use federated.rounds=20, for example",
        )
    values = {
        "name": name,
        "rounds": max(1, EpochSchedule.constant(1, 1).count_steps(length, 0)),
        "fraction": options["fraction"],
        "clients": options["clients"],
        "output": json.dumps(str(folder.absolute() / "final")),
    }
    texts = {
        "pyproject.toml": _PYPROJECT.format(**values),
        "README.md": _README,
        "flower/config.toml": _CONNECTION,
        "federation/__init__.py": "",
        "federation/client_app.py": _CLIENT,
        "federation/server_app.py": _SERVER,
    }
    for file, text in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    write_saved_config(folder / "federation", {**config.resolved, "run_dir": None})
    return [*(folder / file for file in texts), folder / "federation" / CONFIG_NAME]
