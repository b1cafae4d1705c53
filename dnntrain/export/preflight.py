"""Check the needs of an integer export before training."""

from __future__ import annotations

import copy
import re
import traceback
from pathlib import Path

import torch
from torch import nn

from dnntrain.errors import ConfigError, DataError
from dnntrain.export.silence import silence_output
from dnntrain.protocols import QuantChoice
from dnntrain.utils.explain_error import get_first_line

#: `File "net.py", line 10, in forward, code: if x.mean() > 0:`, or with the code in the next line,
#: as torch and Python write it.
_SOURCE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+(?:, code: |\n\s+)(?P<code>.+)')

#: Advice for torch developers in the first line of torch's errors.
_DEVELOPER_ADVICE = re.compile(
    r"Consider annotating your code using torch\._check\*\(\)\. | \(unhinted: .*| ?For more information, .*"
)

_TORCH_FOLDER = str(Path(torch.__file__).parent)


def check_quantizable(quant: QuantChoice, name: str, model: nn.Module, inputs: torch.Tensor) -> None:
    """Check that `quant`, chosen as `quant=name`, can export `model`.

    `inputs` are [2, …]. Raises ConfigError if it cannot.
    """
    quant.check_model(model)
    if quant.compute_dtype == "bfloat16":
        model, inputs = copy.deepcopy(model).bfloat16(), inputs.bfloat16()
        if (failure := _explain_failure(model, inputs)) is not None:
            raise ConfigError(
                f"quant={name} computes in bfloat16, which the network does not support: {failure}", _ANY_PRECISION_HINT
            )
    if type(model).__module__.startswith("dnntrain."):
        return  # tracing takes seconds, and the built-in networks are known to be traceable
    # PT2E finds its integer patterns in strictly traced programs only. ONNX and weights take
    # either, and the quick way is tried first.
    only_strict = quant.backend == "inductor"
    failure = explain_untraceable(model, inputs, (True,) if only_strict else (False, True))
    if failure is None:
        return
    works_in_onnx = only_strict and explain_untraceable(model, inputs, (False,)) is None
    raise ConfigError(
        f"quant={name} cannot export the network in integers, because torch.export cannot trace it: {failure}",
        "use quant.backend=onnxruntime"
        if works_in_onnx
        else "use quant=none, which needs no trace (--format safetensors)",
    )


#: The quantization for a network whose own code fixes the precision.
_ANY_PRECISION_HINT = "use quant=int8_dynamic, or quant=none"


def _explain_failure(model: nn.Module, inputs: torch.Tensor) -> str | None:
    """Return why `model` cannot compute `inputs`, with the failing line, or None if it can.

    Tracing does not compare precisions, so the model runs once.
    """
    try:
        with silence_output(), torch.no_grad():
            model.eval()(inputs)
    except Exception as error:  # the model's own code may raise anything
        return summarize_error(error)
    return None


def check_image_counts(quant: QuantChoice, name: str, num_training: int, num_compared: int) -> None:
    """Check that there are enough examples to calibrate and to compare with the source.

    Raises DataError if there are too few for calibration, or none to compare.
    """
    num_needed = quant.calibration_batch_size if quant.needs_calibration else 0
    if num_training < num_needed:
        raise DataError(
            f"quant={name}: calibration needs {num_needed} training examples, but there are {num_training}",
            f"use quant.calibration_batch_size={max(num_training, 1)}, or quant=none",
        )
    if not num_compared:
        raise DataError(
            f"quant={name}: there is no example to compare the integers with the trained model on",
            "set data.val_fraction=0.1",
        )


def explain_untraceable(model: nn.Module, inputs: torch.Tensor, strict_modes: tuple[bool, ...]) -> str | None:
    """Return why torch.export cannot trace `model`, with the failing line, or None if it can.

    `strict_modes` are tried in order; one that works is enough.
    """
    failure: Exception | None = None
    for strict in strict_modes:
        try:
            with silence_output(), torch.no_grad():
                torch.export.export(
                    model.eval(), (inputs,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
                )
            return None
        except Exception as error:  # tracing runs the model's own code, which may raise anything
            failure = error
    assert failure is not None
    return summarize_error(failure)


def summarize_error(error: Exception) -> str:
    """Return the first line of the error, and the line of the model's own code that raised it.

    As in `Data-dependent branching, at net.py:10: if x.mean() > 0:`.
    """
    text = str(error)
    first_line = _DEVELOPER_ADVICE.sub("", get_first_line(error)).rstrip(" .")[:200]
    frames = [(place["file"], place["line"], place["code"]) for place in _SOURCE_LINE.finditer(text)]
    frames += [
        (frame.filename, str(frame.lineno), frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
    ]
    export_folder = str(Path(__file__).parent)
    model_frames = [place for place in frames if not place[0].startswith((_TORCH_FOLDER, export_folder))]
    if not model_frames:
        return first_line
    file, line, code = model_frames[-1]
    return f"{first_line}, at {Path(file).name}:{line}: {code.strip()}"
