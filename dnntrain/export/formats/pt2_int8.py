"""`--format pt2_int8`: a quantized program of torch.export.

Inductor compiles it to integer kernels when it is loaded.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._int_modules import convert_to_integers
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.calibration import ValueHistogram, choose_range
from dnntrain.export.compiled import CompiledModel
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, resolve_model_file
from dnntrain.export.formats.pt2 import FILE_NAME, load_program, save_program, trace_model
from dnntrain.export.manifest import Manifest
from dnntrain.export.op_coverage import check_share, measure_torch_coverage
from dnntrain.nn.int8_embedding import quantize_embeddings
from dnntrain.utils.hardware import has_vnni

#: Least scale. torchao's 2^-12 would leave a tensor of small values only a few of its 255 steps.
_MIN_SCALE = 2.0**-40


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.pt2; return its operator census.

    Raises CheckpointError if too little of it ran in integers.
    """
    options = source.quant
    assert options is not None
    if options.is_weight_only:
        program, details = _quantize_weights(source)
    elif options.is_quantization_aware:
        _import_quantizer()
        program, details = trace_model(convert_to_integers(source.model), source.inputs, strict=True), {}
    else:
        program, details = _quantize_program(source), {}
    save_program(program, source.manifest, folder)
    run = load(folder, source.manifest, "cpu")
    coverage = measure_torch_coverage(run, source.inputs)
    if not options.is_weight_only:
        check_share(coverage, "int8", options.min_quantized_fraction, "pt2_int8")
    return {"census": coverage.as_json(), **details}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the program and compile it with Inductor, with its weights frozen in.

    The first call for a number of examples takes seconds.
    """
    _import_quantizer()
    return CompiledModel(load_program(resolve_model_file(export_path, FILE_NAME)), "cpu")


def _import_quantizer() -> Any:
    """Import torchao's quantizer for Inductor.

    The import also registers the operators of quantized programs and their lowering to integer
    kernels. Without it a quantized program runs in floating point.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")


def _quantize_program(source: ExportRequest) -> torch.export.ExportedProgram:
    quantizers = _import_quantizer()
    flow: Any = import_module("torchao.quantization.pt2e.quantize_pt2e")
    quantizer = quantizers.X86InductorQuantizer().set_global(_make_config(quantizers, source.quant))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed_model = flow.prepare_pt2e(trace_model(source.model, source.inputs, strict=True).module(), quantizer)
        with torch.no_grad():
            for inputs in _get_calibration_batches(source):
                observed_model(inputs)
        quantized_model = _keep_outputs_float(flow.convert_pt2e(observed_model))
        return trace_model(_drop_unused_tensors(quantized_model), source.inputs, strict=True)


#: Parts of the names of operators that end the walk from the outputs: layers, and averages of rounded values.
_LAST_OPERATORS = ("conv", "linear", "addmm", "aten.mm", "bmm", "matmul", "avg_pool", "mean")


def _keep_outputs_float(module: Any) -> Any:
    """Return the graph module without rounding between its last layers or averages and its outputs."""
    pending = list(module.graph.output_node().all_input_nodes)
    visited: set[Any] = set()
    while pending:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        source: Any = node.args[0] if node.args else None
        if "dequantize_per_tensor" in str(node.target) and "quantize_per_tensor" in str(source.target):
            node.replace_all_uses_with(source.args[0])
            pending.append(source.args[0])
        elif not any(part in str(node.target) for part in _LAST_OPERATORS):
            pending += node.all_input_nodes
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _drop_unused_tensors(module: Any) -> Any:
    """Return the graph module without tensors that no node reads.

    These are the float weights, which would be saved beside the integer ones.
    """
    used_names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in used_names:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    return module


def _get_calibration_batches(source: ExportRequest) -> Iterable[Tensor]:
    """Return batches to read ranges from; dynamic ranges need only one, to find the shapes."""
    needs_calibration = source.quant is not None and source.quant.needs_calibration
    return source.calibration if needs_calibration else [source.inputs]


def _make_config(quantizers: Any, options: Any) -> Any:
    """Return how torchao quantizes for Inductor, with the observer that the options name."""
    if not options.per_channel:
        raise ConfigError(
            "quant.per_channel=false: Inductor's integer convolutions need one scale per channel",
            "use quant.per_channel=true, or quant.backend=onnxruntime",
        )
    is_static = options.needs_calibration
    config = quantizers.get_default_x86_inductor_quantization_config(
        is_dynamic=not is_static, reduce_range=not has_vnni()
    )
    observers: Any = import_module("torchao.quantization.pt2e.observer")
    rule = make_range_observer(options.observer, options.percentile) if is_static else observers.PlaceholderObserver
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=rule.with_args(eps=_MIN_SCALE))
    weight_observer = observers.PerChannelMinMaxObserver.with_args(eps=_MIN_SCALE)
    weight = replace(config.weight, observer_or_fake_quant_ctr=weight_observer)
    return replace(config, input_activation=activation, output_activation=activation, weight=weight)


def make_range_observer(rule: str, percentile: float) -> Any:
    """Return torchao's base of observers with the range of `dnntrain.export.calibration`."""
    observers: Any = import_module("torchao.quantization.pt2e.observer")

    class RangeObserver(observers.UniformQuantizationObserverBase):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.values = ValueHistogram()

        def forward(self, values: Tensor) -> Tensor:
            self.values.add(values)
            return values

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            low, high = choose_range(self.values, rule, percentile)
            scale, zero = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
            return scale, zero

    return RangeObserver


def _quantize_weights(source: ExportRequest) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization: Any = import_module("torchao.quantization")
        model = copy.deepcopy(source.model)
        if not any(isinstance(module, nn.Linear) for module in model.modules()):
            raise ConfigError(
                "quant=int8_weight_only quantizes linear layers only, and this model has none", _INT8_STATIC_HINT
            )
        weights = sum(parameter.numel() for parameter in model.parameters())
        integers = quantize_embeddings(model)
        integers += sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        try:
            program = trace_model(model, source.inputs)
        except ConfigError as error:
            raise CheckpointError(
                f"torchao's weights cannot be exported: {error.message}", _INT8_STATIC_HINT
            ) from error
    return program, {"int8_weights": integers / weights}


_INT8_STATIC_HINT = "use quant=int8_static"


FORMAT = ExportFormat(
    "pt2_int8",
    "8-bit integers in Inductor",
    write,
    load,
    files=(FILE_NAME,),
    is_program=True,
    is_exact=False,
    suffix=".pt2",
)
