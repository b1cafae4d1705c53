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

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.choices.quant.float8 import Float8, check_layers
from dnntrain.choices.quant.int8_weight_only import Int8WeightOnly
from dnntrain.errors import ConfigError, DataError

#: `File "net.py", line 10, in forward, code: if x.mean() > 0:`, or with the code in the next line, as torch and Python write it.
_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+(?:, code: |\n\s+)(?P<code>.+)')

#: What torch adds to the first line of its errors for its own developers.
_ASIDE = re.compile(
    r"Consider annotating your code using torch\._check\*\(\)\. | \(unhinted: .*| ?For more information, .*"
)

_LIBRARY = str(Path(torch.__file__).parent)


def check_quantised(quant: PostTraining, name: str, model: nn.Module, images: torch.Tensor) -> None:
    """Raises ConfigError where `quant`, chosen as `quant=name`, cannot export `model`. `images`: [2, channels, height, width]."""
    if isinstance(quant, Int8WeightOnly) and not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise ConfigError(
            f"quant={name} quantises linear layers, and this model has none", "use quant=int8_static, or quant=none"
        )
    if isinstance(quant, Float8):
        check_layers(model)
        model, images = copy.deepcopy(model).bfloat16(), images.bfloat16()
        if (failure := _failing(model, images)) is not None:
            raise ConfigError(
                f"quant={name} computes in bfloat16, which the network does not take: {failure}", _TAKES_ANY
            )
    if type(model).__module__.startswith("dnntrain."):
        return  # built-in networks are known to be traceable, and tracing takes seconds
    backend = getattr(quant, "backend", "auto")
    # Integer patterns of PT2E are found in strictly traced programs alone; ONNX and weights take either, and the quick way is tried first.
    only_strict = backend == "inductor" and not isinstance(quant, Int8WeightOnly)
    failure = untraceable(model, images, (True,) if only_strict else (False, True))
    if failure is None:
        return
    other = only_strict and untraceable(model, images, (False,)) is None
    raise ConfigError(
        f"quant={name}: torch.export cannot trace the network, so that it cannot be exported in integers: {failure}",
        "use quant.backend=onnxruntime" if other else "use quant=none, which needs no trace (format=safetensors)",
    )


#: What quantises a network whose own code fixes the precision.
_TAKES_ANY = "use quant=int8_dynamic, or quant=none"


def _failing(model: nn.Module, images: torch.Tensor) -> str | None:
    """Why `model` cannot compute `images`, with the line that stops it; None where it can. Tracing does not compare precisions."""
    try:
        with _quiet(), torch.no_grad():
            model.eval()(images)
    except Exception as error:  # the model's own code raises whatever it likes
        return reason(error)
    return None


def check_images(quant: PostTraining, name: str, training: int, compared: int) -> None:
    """Raises DataError where there are too few images to read ranges from, or none to compare the export with its source on."""
    wanted = quant.batch_size if quant.calibrates else 0  # type: ignore[attr-defined]
    if training < wanted:
        raise DataError(
            f"quant={name}: calibration needs {wanted} training images, there are {training}",
            f"use quant.batch_size={max(training, 1)}, or quant=none",
        )
    if not compared:
        raise DataError(
            f"quant={name}: there is no image to compare the integers with the trained model on",
            "set data.val_fraction=0.1",
        )


def untraceable(model: nn.Module, images: torch.Tensor, ways: tuple[bool, ...]) -> str | None:
    """Why torch.export traces `model` in none of the `ways` (strict or not), with the line that stops it; None where it does."""
    failure: Exception | None = None
    for strict in ways:
        try:
            with _quiet(), torch.no_grad():
                torch.export.export(
                    model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
                )
            return None
        except Exception as error:  # tracing runs the model's own code, which raises whatever it likes
            failure = error
    assert failure is not None
    return reason(failure)


def reason(error: Exception) -> str:
    """`Data-dependent branching, at net.py:10: if x.mean() > 0:`: the first line of the error, and the line of the model's own code."""
    text = str(error)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    first = _ASIDE.sub("", first).rstrip(" .")[:200]
    found = [(place["file"], place["line"], place["code"]) for place in _PLACE.finditer(text)]
    found += [
        (frame.filename, str(frame.lineno), frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
    ]
    ours = str(Path(__file__).parent)
    own = [place for place in found if not place[0].startswith((_LIBRARY, ours))]
    if not own:
        return first
    file, line, code = own[-1]
    return f"{first}, at {Path(file).name}:{line}: {code.strip()}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs and prints before it raises it, and what the network itself prints."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
