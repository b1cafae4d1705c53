"""A device with a number, such as cuda:1, is the one that a run in one process computes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.distributed import spmd
from dnntrain.distributed.rng_replay import RngReplay
from dnntrain.protocols import Batch
from dnntrain.run.session import open_session
from dnntrain.training.build_model import build_executor, build_model, place_rank
from dnntrain.utils.world import World


def test_the_executor_of_a_run_gets_the_number_and_replays_the_generator_of_that_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices: list[str] = []

    class RecordingReplay(RngReplay):
        def __init__(self, device: Any) -> None:
            devices.append(device)
            super().__init__("cpu")

    monkeypatch.setattr(spmd, "RngReplay", RecordingReplay)
    words = ["model=mlp", "reg=[sam]", "train.max_examples=64", "precision=bf16", "device=cpu"]
    # The only numbered device of every machine.
    setup = replace(open_session(decode_config(compose(words, quiet=True)), World()).setup, device="cpu:0")
    place = place_rank(setup)
    model = build_model(setup, place)
    executor = build_executor(setup, place, model)
    assert devices == ["cpu:0"]
    index = np.arange(2)
    batch = Batch(torch.rand(2, 1, 8, 8), torch.tensor([1, 2]), index, index)
    assert executor.compute_outputs(batch).dtype == torch.bfloat16


def test_the_generator_of_the_numbered_gpu_is_saved_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {0: "first", 1: "second"}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[torch.device(device).index or 0])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({torch.device(device).index or 0: state})
    )
    numbers = RngReplay("cuda:1")
    states.update({0: "later", 1: "later"})
    numbers.restore()
    assert states == {0: "later", 1: "second"}
