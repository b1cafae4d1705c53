"""What an integer export will need, looked at before anything is trained."""

from __future__ import annotations

import copy
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn

from dnntrain.errors import ConfigError, DataError
from dnntrain.protocols import QuantChoice

#: `File "net.py", line 10, in forward, code: if x.mean() > 0:`, or with the code in the next line, as torch and Python write it.
_SOURCE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+(?:, code: |\n\s+)(?P<code>.+)')

#: What torch adds to the first line of its errors for its own developers.
_DEVELOPER_ADVICE = re.compile(
    r"Consider annotating your code using torch\._check\*\(\)\. | \(unhinted: .*| ?For more information, .*"
)

_TORCH_FOLDER = str(Path(torch.__file__).parent)


def check_quantizable(quant: QuantChoice, name: str, model: nn.Module, images: torch.Tensor) -> None:
    """Raises ConfigError where `quant`, chosen as `quant=name`, cannot export `model`. `images`: [2, channels, height, width]."""
    quant.check_model(model)
    if quant.compute_dtype == "bfloat16":
        model, images = copy.deepcopy(model).bfloat16(), images.bfloat16()
        if (failure := _explain_failure(model, images)) is not None:
            raise ConfigError(
                f"quant={name} computes in bfloat16, which the network does not take: {failure}", _ANY_PRECISION_HINT
            )
    if type(model).__module__.startswith("dnntrain."):
        return  # built-in networks are known to be traceable, and tracing takes seconds
    # Integer patterns of PT2E are found in strictly traced programs alone; ONNX and weights take either, and the quick way is tried first.
    only_strict = quant.backend == "inductor"
    failure = explain_untraceable(model, images, (True,) if only_strict else (False, True))
    if failure is None:
        return
    works_in_onnx = only_strict and explain_untraceable(model, images, (False,)) is None
    raise ConfigError(
        f"quant={name}: torch.export cannot trace the network, so that it cannot be exported in integers: {failure}",
        "use quant.backend=onnxruntime"
        if works_in_onnx
        else "use quant=none, which needs no trace (--format safetensors)",
    )


#: What quantises a network whose own code fixes the precision.
_ANY_PRECISION_HINT = "use quant=int8_dynamic, or quant=none"


def _explain_failure(model: nn.Module, images: torch.Tensor) -> str | None:
    """Why `model` cannot compute `images`, with the line that stops it; None where it can. Tracing does not compare precisions."""
    try:
        with _silence_output(), torch.no_grad():
            model.eval()(images)
    except Exception as error:  # the model's own code raises whatever it likes
        return summarize_error(error)
    return None


def check_image_counts(quant: QuantChoice, name: str, num_training: int, num_compared: int) -> None:
    """Raises DataError where there are too few images to read ranges from, or none to compare the export with its source on."""
    num_needed = quant.calibration_batch_size if quant.needs_calibration else 0
    if num_training < num_needed:
        raise DataError(
            f"quant={name}: calibration needs {num_needed} training images, there are {num_training}",
            f"use quant.calibration_batch_size={max(num_training, 1)}, or quant=none",
        )
    if not num_compared:
        raise DataError(
            f"quant={name}: there is no image to compare the integers with the trained model on",
            "set data.val_fraction=0.1",
        )


def explain_untraceable(model: nn.Module, images: torch.Tensor, strict_modes: tuple[bool, ...]) -> str | None:
    """Why torch.export traces `model` in none of the `ways` (strict or not), with the line that stops it; None where it does."""
    failure: Exception | None = None
    for strict in strict_modes:
        try:
            with _silence_output(), torch.no_grad():
                torch.export.export(
                    model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
                )
            return None
        except Exception as error:  # tracing runs the model's own code, which raises whatever it likes
            failure = error
    assert failure is not None
    return summarize_error(failure)


def summarize_error(error: Exception) -> str:
    """`Data-dependent branching, at net.py:10: if x.mean() > 0:`: the first line of the error, and the line of the model's own code."""
    text = str(error)
    first_line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    first_line = _DEVELOPER_ADVICE.sub("", first_line).rstrip(" .")[:200]
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


@contextmanager
def _silence_output() -> Iterator[None]:
    """Without what torch logs and prints before it raises it, and what the network itself prints."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous_level)
