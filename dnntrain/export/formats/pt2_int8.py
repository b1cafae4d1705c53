"""`format=pt2_int8`: a quantised program of torch.export, which Inductor compiles to integer kernels when it is loaded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._int_modules import converted
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.choices.quant.int8_weight_only import Int8WeightOnly
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.compiled import Compiled
from dnntrain.export.formats import Format, Runner, Source, model_file
from dnntrain.export.formats.pt2 import FILE, opened, save, traced
from dnntrain.export.manifest import Card
from dnntrain.export.op_coverage import check_share, torch_census
from dnntrain.utils.hardware import has_vnni


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model.pt2, and the census of what ran. Raises CheckpointError where too little ran in integers."""
    knobs = source.quant
    if isinstance(knobs, Int8WeightOnly):
        program, details = _weights_only(source)
    elif knobs is not None and knobs.learned:
        _register()
        program, details = traced(converted(source.model), source.images, strict=True), {}
    else:
        program, details = _integers(source), {}
    save(program, source.card, folder)
    run = load(folder, source.card, "cpu")
    census = torch_census(run, source.images)
    if not isinstance(knobs, Int8WeightOnly):
        check_share(census, "int8", knobs.min_share, "pt2_int8")  # type: ignore[union-attr]
    return {"census": census.as_json(), **details}


def load(place: Path, card: Card, device: str) -> Runner:
    """The program, compiled by Inductor with its weights frozen in. The first call for a number of images takes seconds."""
    _register()
    return Compiled(opened(model_file(place, FILE)), "cpu")


def _register() -> Any:
    """torchao's quantizer for Inductor. Its import also registers the operators of such programs and what lowers them to integer kernels:

    without it a quantised program runs in floating point.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")


def _integers(source: Source) -> torch.export.ExportedProgram:
    quantizers = _register()
    flow: Any = import_module("torchao.quantization.pt2e.quantize_pt2e")
    quantizer = quantizers.X86InductorQuantizer().set_global(_config(quantizers, source.quant))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = flow.prepare_pt2e(traced(source.model, source.images, strict=True).module(), quantizer)
        with torch.no_grad():
            for images in _calibration(source):
                prepared(images)
        return traced(_without_unused(flow.convert_pt2e(prepared)), source.images, strict=True)


def _without_unused(module: Any) -> Any:
    """The graph module less the tensors that no node reads: the float weights, which would be saved beside the integer ones."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    return module


def _calibration(source: Source) -> Sequence[Tensor]:
    """Batches to read ranges from; dynamic ranges need none but those that shapes are found with."""
    return list(source.calibration) or [source.images]


def _config(quantizers: Any, knobs: Any) -> Any:
    """How torchao quantises for Inductor, with the observer that the knobs name."""
    if not knobs.per_channel:
        raise ConfigError(
            "quant.per_channel=false: Inductor's integer convolutions have a scale a channel",
            "use quant.per_channel=true, or quant.backend=onnxruntime",
        )
    static = isinstance(knobs, Int8Static)
    config = quantizers.get_default_x86_inductor_quantization_config(is_dynamic=not static, reduce_range=not has_vnni())
    if not static:
        return config
    observers: Any = import_module("torchao.quantization.pt2e.observer")
    observer = {
        "minmax": observers.MinMaxObserver,
        "histogram": observers.HistogramObserver,
        "percentile": percentile_observer(observers, knobs.percentile),
    }[knobs.observer]
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=observer.with_args(eps=2**-12))
    return replace(config, input_activation=activation, output_activation=activation)


def percentile_observer(observers: Any, percentile: float) -> Any:
    """torchao's histogram observer, whose range leaves out `100 - percentile` percent of the values at each end that is not zero."""
    tail = 1 - percentile / 100

    class PercentileObserver(observers.HistogramObserver):  # type: ignore[misc]
        def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
            share = self.histogram.cumsum(0) / self.histogram.sum()
            width = (self.max_val - self.min_val) / self.bins
            first = int((share <= tail).sum())
            last = int((share < 1 - tail).sum())
            return self.min_val + first * width, self.min_val + (last + 1) * width

    return PercentileObserver


def _weights_only(source: Source) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization: Any = import_module("torchao.quantization")
        model = copy.deepcopy(source.model)
        linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
        if not linear:
            raise ConfigError("quant=int8_weight_only quantises linear layers, and this model has none", _STATIC)
        weights = sum(parameter.numel() for parameter in model.parameters())
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        try:
            program = traced(model, source.images)
        except ConfigError as error:
            raise CheckpointError(f"torchao's weights cannot be exported: {error.message}", _STATIC) from error
    return program, {"int8_weights": linear / weights}


_STATIC = "use quant=int8_static"


FORMAT = Format("pt2_int8", "8-bit integers in Inductor", write, load, program=True, exact=False, suffix=".pt2")
