"""Check that the model of an export has the inputs and outputs that its manifest states."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dnntrain.errors import CheckpointError, DnntrainError
from dnntrain.protocols import ModelSpec
from dnntrain.utils.explain_error import explain_lack_of_resources, get_first_line

_HINT = "export it again with: dnntrain export RUN"


def check_shapes(model: nn.Module, spec: ModelSpec, device: str, path: Path) -> None:
    """Run the model on one example of zeros.

    Raises CheckpointError if it does not take it, or if the output has another shape than `spec` states.
    """
    shape = list(spec.inputs.shape)
    inputs = torch.zeros((1, *shape), dtype=getattr(torch, spec.inputs.dtype_name), device=device)
    try:
        with torch.no_grad():
            outputs = model(inputs)
    except DnntrainError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        if (lack := explain_lack_of_resources(error)) is not None:
            raise lack from error
        raise CheckpointError(
            f"{path}: its manifest states inputs {shape}, which the model does not take: {get_first_line(error)}", _HINT
        ) from error
    output_shape = list(outputs.shape[1:])
    if output_shape != list(spec.output.shape):
        raise CheckpointError(
            f"{path}: its manifest states outputs {list(spec.output.shape)}; the model has {output_shape}", _HINT
        )
