"""Quantize an OpenVINO model with NNCF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dnntrain.export.openvino_files import import_package, name_openvino_errors
from dnntrain.export.silence import silence_output
from dnntrain.protocols import QuantChoice
from dnntrain.utils.hardware import has_vnni


def quantize_openvino(model: Any, options: QuantChoice, batches: Iterable[Tensor]) -> Any:
    """Return `model` with int8 weights, and activations of 8 bits with ranges by `options.observer`.

    NNCF places the roundings where OpenVINO computes in integers, and corrects biases for the mean
    error. On a processor without VNNI or AMX, weights have 7 bits. Ranges are symmetric; in a network
    with attention they are not, and large values of activations are moved into the weights (Xiao et
    al., "SmoothQuant", 2022). Raises CheckpointError if it cannot.
    """
    problem, hint = "NNCF cannot quantize this model", "use --format onnx_int8, or --format openvino"
    with name_openvino_errors(problem, hint), silence_output(hides_stderr=False):
        nncf = import_package("nncf")
        return nncf.quantize(
            model,
            nncf.Dataset(_Examples(batches)),
            subset_size=sum(map(len, batches)),
            model_type=nncf.ModelType.TRANSFORMER if has_attention(model) else None,
            advanced_parameters=_make_parameters(options),
        )


def has_attention(model: Any) -> bool:
    """Return whether an OpenVINO model has a softmax.

    Networks return logits, so it is that of attention.
    """
    return any(op.get_type_name() in ("Softmax", "ScaledDotProductAttention") for op in model.get_ops())


class _Examples:
    """The examples of batches one by one, as often as they are needed.

    NNCF counts a batch as one example, and takes its first axis for a channel.
    """

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            for example in torch.split(batch, 1):
                yield example.contiguous().numpy()


def _make_parameters(options: QuantChoice) -> Any:
    """Return NNCF's parameters for the options of a quantization."""
    advanced: Any = import_module("nncf.quantization.advanced_parameters")
    estimator: Any = import_module("nncf.quantization.range_estimator")
    known = estimator.RangeEstimatorParametersSet
    if options.observer == "percentile":
        outside = (100 - options.percentile) / 200
        kinds = estimator.StatisticsType.QUANTILE, estimator.AggregatorType.MEAN
        end = estimator.StatisticsCollectorParameters(*kinds, quantile_outlier_prob=outside)
        ranges = estimator.RangeEstimatorParameters(min=end, max=end)
    else:
        ranges = known.HISTOGRAM if options.observer == "histogram" else known.MINMAX
    return advanced.AdvancedQuantizationParameters(
        # NNCF's default reduces the first layer alone; sums of the others can overflow too.
        overflow_fix=advanced.OverflowFix.FIRST_LAYER if has_vnni() else advanced.OverflowFix.ENABLE,
        weights_quantization_params=advanced.QuantizationParameters(per_channel=options.per_channel),
        activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
        activations_range_estimator_params=ranges,
    )
